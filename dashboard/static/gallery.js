// Draws the tiles as buttons; answers a click with the tile's id. Every text is set as text, never as markup.
export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".grid");
  grid.style.setProperty("--tile", `${data.tile_width}px`);
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
    const image = document.createElement("img");
    image.src = tile.source;
    image.alt = "";
    frame.append(image);
    if (tile.wrong) frame.append(text("wrong", tile.wrong));
    element.append(frame);
    const below = document.createElement("span");
    below.className = "below";
    const shape = { accept: "✓ ", reject: "✕ " }[tile.decision] ?? "";
    below.append(text("caption", shape + tile.caption), text("detail", tile.detail));
    element.append(below);
    element.onclick = () => {
      grid.querySelectorAll(".selected").forEach((other) => other.classList.remove("selected"));
      element.classList.add("selected");
      setTriggerValue("picked", tile.id);
    };
    return element;
  }

  function text(name, content) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = content;
    return span;
  }
}
