"""What a language model is asked, in the form that an OpenAI-compatible endpoint takes."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple


class Prompt(NamedTuple):
    """What is asked: the system message (left out where it is empty), the user message, and pictures before it."""

    system: str
    user: str
    images: tuple[bytes, ...] = ()
    """JPEG files."""

    def messages(self) -> list[dict[str, Any]]:
        """Returns the messages as an OpenAI-compatible endpoint takes them."""
        content: str | list[dict[str, Any]] = self.user
        if self.images:
            urls = (f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in self.images)
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": self.user})
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]
