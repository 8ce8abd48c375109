"use strict";
const form = document.querySelector("form");
const cards = [...document.querySelectorAll("article")].map((card) => [card, card.textContent.toLowerCase()]);

// What is chosen is kept in the address, as #task=egoplan&outcome=wrong, so that a view can be linked and reloaded.
function apply() {
  const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const { task, outcome } = form.elements;
  let shown = 0;
  for (const [card, text] of cards) {
    const fits = (!task.value || card.dataset.task === task.value) && (!outcome.value || card.dataset.outcome === outcome.value);
    card.hidden = !(fits && words.every((word) => text.includes(word)));
    shown += !card.hidden;
  }
  form.querySelector("output").textContent = `${shown} of ${cards.length} shown`;
  document.querySelector(".nothing").hidden = shown > 0;
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const name of ["q", "task", "outcome"]) {
    const control = form.elements[name];
    control.value = wanted.get(name) ?? "";
    if (control.selectedIndex === -1) control.value = "";
  }
  apply();
}

if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const wanted = new URLSearchParams();
    for (const name of ["q", "task", "outcome"]) if (form.elements[name].value) wanted.set(name, form.elements[name].value);
    history.replaceState(null, "", `#${wanted}`);
    apply();
  });
  if (location.hash.includes("=")) readAddress();
}

// what is folded is printed too, and folded again
const folds = [...document.querySelectorAll("section > details, section > div > details")];
let closed = [];
addEventListener("beforeprint", () => { closed = folds.filter((fold) => !fold.open); for (const fold of closed) fold.open = true; });
addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });
