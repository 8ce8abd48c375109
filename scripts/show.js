"use strict";
// What is chosen is kept in the address, as #source=egtea&q=cup, so that a view can be linked and reloaded.
const controls = [...document.querySelectorAll("form [name]")];
const cards = [...document.querySelectorAll("article")];

function apply() {
  const words = document.querySelector("[name=q]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = controls.filter((control) => control.name !== "q" && control.value);
  let shown = 0;
  for (const card of cards) {
    const fits = chosen.every((control) => card.dataset[control.name] === control.value.slice(1));
    card.hidden = !(fits && words.every((word) => card.dataset.text.includes(word)));
    shown += !card.hidden;
  }
  document.querySelector("output").textContent = `${shown} of ${cards.length} shown`;
  document.querySelector(".nothing").hidden = shown > 0;
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const control of controls) {
    const names = [control.name, control.dataset.label];
    const value = names.map((name) => wanted.get(name)).find((found) => found !== null) ?? "";
    control.value = control.name === "q" || !value ? value : `=${value}`;
    if (control.selectedIndex === -1) control.value = "";
  }
  apply();
}

function writeAddress() {
  const wanted = new URLSearchParams();
  for (const control of controls) {
    if (control.value) wanted.set(control.dataset.label, control.name === "q" ? control.value : control.value.slice(1));
  }
  history.replaceState(null, "", `#${wanted}`);
  apply();
}

document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
for (const control of controls) control.addEventListener("input", writeAddress);
window.addEventListener("hashchange", readAddress);
readAddress();
