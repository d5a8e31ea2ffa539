// Draws the tiles as buttons; answers a click with the tile's id. Every text is set as text, never as markup.
export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  grid.style.setProperty("--tile", `${data.tile_width}px`);
  // What was just clicked and not sent yet must outlive a page that is drawn meanwhile.
  const chosen = data.chosen && (parentElement.sending ? parentElement.chosen : new Set(data.chosen));
  Object.assign(parentElement, { chosen, send: setTriggerValue });
  let last = null;
  grid.replaceChildren(...data.tiles.map((tile) => button(tile, tile.id === data.selected)));

  function button(tile, selected) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = ["tile", tile.decision ?? "", selected ? "selected" : ""].join(" ");
    element.title = tile.title;
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", String(selected));
    element.setAttribute("aria-label", [tile.title, tile.decision, tile.wrong].filter(Boolean).join(", "));
    const frame = document.createElement("span");
    frame.className = "frame";
    for (const source of [tile.source, tile.beside].filter(Boolean)) {
      const image = document.createElement("img");
      image.src = source;
      image.alt = "";
      frame.append(image);
    }
    if (tile.wrong) frame.append(text("wrong", tile.wrong));
    element.append(frame);
    const below = document.createElement("span");
    below.className = "below";
    const shape = { accept: "✓ ", reject: "✕ " }[tile.decision] ?? "";
    below.append(text("caption", shape + tile.caption), text("detail", tile.detail));
    element.append(below);
    if (tile.note) element.append(text("note", tile.note));
    if (chosen) element.classList.toggle("chosen", chosen.has(tile.id));
    element.onclick = (click) => {
      if (chosen) return choose(tile.id, click.shiftKey);
      grid.querySelectorAll(".selected").forEach((other) => other.classList.remove("selected"));
      element.classList.add("selected");
      setTriggerValue("picked", tile.id);
    };
    return element;
  }

  // Several clicks in a row become one message, so that the page does not run for each.
  function choose(id, upTo) {
    const ids = data.tiles.map((tile) => tile.id);
    const from = upTo && last !== null ? ids.indexOf(last) : ids.indexOf(id);
    const range = [from, ids.indexOf(id)].sort((a, b) => a - b);
    const choosing = !chosen.has(id);
    ids.slice(range[0], range[1] + 1).forEach((one) => (choosing ? chosen.add(one) : chosen.delete(one)));
    last = id;
    [...grid.children].forEach((element, index) => {
      element.classList.toggle("chosen", chosen.has(ids[index]));
      element.setAttribute("aria-selected", String(chosen.has(ids[index])));
    });
    clearTimeout(parentElement.sending);
    parentElement.sending = setTimeout(() => {
      parentElement.sending = null;
      parentElement.send("chosen", ids.filter((one) => parentElement.chosen.has(one)));
    }, 350);
  }

  function text(name, content) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = content;
    return span;
  }
}
