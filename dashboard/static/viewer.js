// Shows one picture of a list at a time, with what models see on it. Everything that a person does with a picture happens
// here at once: the page is told afterwards. Every text is set as text, never as markup.

const KEPT_PICTURES = 16; // decoded; 4 MB each at 1024 × 1024
const KEPT_ANSWERS = 96; // levels, regions, outlines
const AHEAD = [1, -1, 2, -2]; // neighbours that are fetched before anybody asks
const PICK_MS = 250; // so long somebody must stay on a picture before the page follows
const ELSEWHERE_MS = 2000; // and if they click elsewhere meanwhile: that may lead to another picture, and comes first
const WAIT_MS = 120; // before it is said that something is waited for
const TABLE = 4096; // entries of a colour table
const SHADES = 1024; // of a palette; even, so that one begins at the leap
const MAX_ZOOM = 64;
const PANELS = { picture: "Original", heat: "Heatmap", map: "Map", truth: "Ground truth" };
const TRUTH = "#e6007e";
const REMEMBERED = "simplenet viewer"; // in the browser: how somebody likes to look

const viewers = new Map(); // by the widget's key; they outlive what is drawn

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const viewer = viewers.get(data.key) ?? fresh(data.key);
  const root = parentElement.querySelector(".viewer");
  Object.assign(viewer, { data, setStateValue, setTriggerValue });
  if (viewer.root !== root) mount(viewer, root);
  follow(viewer);
  return () => {
    if (viewer.root !== root) return;
    document.removeEventListener("keydown", viewer.keys, true);
    document.removeEventListener("pointerdown", viewer.elsewhere, true);
    viewer.watch.disconnect();
    viewer.root = null;
  };
}

function fresh(key) {
  const viewer = {
    index: 0, asked: null, mine: new Set(), zoom: 1, centre: null, shapes: [], taken: false, tool: null,
    events: [], number: 0, marks: new Map(), pictures: new Map(), answers: new Map(), layers: new Map(),
    look: { opacity: 60, palette: null, contours: true, panels: ["picture", "heat", "map", "truth"] },
  };
  try {
    Object.assign(viewer.look, JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}"));
  } catch { /* what was kept is of no use */ }
  viewers.set(key, viewer);
  return viewer;
}

function remember(viewer) {
  try {
    localStorage.setItem(REMEMBERED, JSON.stringify(viewer.look));
  } catch { /* a browser that keeps nothing */ }
}

// ------------------------------------------------------------------------------------------------ what the page says

// Takes over what the page has sent. Where somebody has gone on meanwhile, the page's picture is old news.
function follow(viewer) {
  const { data } = viewer;
  const before = viewer.shot;
  viewer.events = viewer.events.filter((event) => event.n > data.acknowledged);
  const acknowledged = viewer.acknowledged !== data.acknowledged;
  viewer.acknowledged = data.acknowledged;
  // The page may have missed a list that came while it was busy with the one before.
  if (acknowledged && viewer.events.length) viewer.setStateValue("events", viewer.events);
  for (const [id, mark] of viewer.marks) if (mark.n <= data.acknowledged) viewer.marks.delete(id);
  const place = (id) => data.shots.findIndex((shot) => shot.id === id);
  let wanted = before?.id;
  const own = viewer.mine.delete(data.current); // the page only follows
  if (!own && data.current !== viewer.server || acknowledged && data.moved) {
    wanted = data.current;
    ask(viewer, null, 0);
  }
  viewer.server = data.current;
  viewer.index = Math.max(0, place(wanted) >= 0 ? place(wanted) : place(data.current));
  if (!Object.keys(data.palettes).includes(viewer.look.palette)) viewer.look.palette = Object.keys(data.palettes)[0];
  const scales = JSON.stringify(data.lenses);
  if (viewer.scales !== scales) viewer.layers.clear();
  viewer.scales = scales;
  controls(viewer);
  show(viewer, viewer.data.shots[viewer.index].id !== before?.id);
}

function go(viewer, step) {
  const index = viewer.index + step;
  if (index < 0 || index >= viewer.data.shots.length) return;
  viewer.index = index;
  show(viewer, true);
  ask(viewer, viewer.shot.id, PICK_MS);
}

// Has the page follow to a picture after a while, instead of to one that it was to follow to before; null: to none.
function ask(viewer, id, wait) {
  clearTimeout(viewer.asking);
  viewer.asked = id;
  if (id === null) return;
  const after = told(viewer); // what is said later may lead to another picture, and is not to be overtaken
  viewer.asking = setTimeout(() => {
    viewer.asked = null;
    viewer.mine.add(id);
    viewer.setTriggerValue("picked", { id, after });
  }, wait);
}

// The number of the last event that was told to the page.
const told = (viewer) => Math.max(viewer.number, viewer.data.acknowledged);

// Events wait in a list until the page has acknowledged them: two in a row must not become one.
function tell(viewer, event) {
  viewer.number = told(viewer) + 1;
  viewer.events = [...viewer.events, { n: viewer.number, ...event }]; // what is the same list as before is not sent
  viewer.setStateValue("events", viewer.events);
  return viewer.number;
}

function mark(viewer, label) {
  if (!viewer.data.marking) return;
  const defect = label === "anomalous";
  const shot = viewer.shot;
  const next = viewer.data.shots[viewer.index + 1]; // the order may change by the mark, so the page goes on with it
  const n = tell(viewer, {
    kind: "mark", id: shot.id, label, next: next?.id ?? null,
    type: defect ? viewer.root.querySelector(".type").value.trim() : "",
    shapes: defect ? viewer.shapes.map((shape) => shape.map(([x, y]) => [round(x), round(y)])) : [],
    regions: defect && viewer.taken,
  });
  viewer.marks.set(shot.id, { n, label });
  if (next) {
    viewer.mine.add(next.id);
    go(viewer, 1);
  } else show(viewer, true);
}

function undo(viewer) {
  if (viewer.data.marking) tell(viewer, { kind: "undo" });
}

const round = (value) => Math.round(value * 10) / 10;

// ------------------------------------------------------------------------------------------------ what is fetched

function kept(map, key, most, make) {
  const found = map.get(key) ?? make();
  map.delete(key); // and to the end: the one used last goes last
  map.set(key, found);
  while (map.size > most) map.delete(map.keys().next().value);
  return found;
}

function picture(viewer, from) {
  return kept(viewer.pictures, from, KEPT_PICTURES, () => {
    const entry = { value: null };
    const image = new Image();
    image.src = from;
    entry.promise = image.decode().then(() => { entry.value = image; }, () => {
      viewer.pictures.delete(from);
      throw new Error("The picture could not be loaded.");
    });
    entry.promise.catch(() => {});
    return entry;
  });
}

function answer(viewer, from, read) {
  return kept(viewer.answers, from, KEPT_ANSWERS, () => {
    const entry = { value: null };
    entry.promise = fetch(from, { credentials: "same-origin" }).then(async (response) => {
      if (!response.ok) {
        const said = await response.json().catch(() => ({}));
        throw new Error(said.error ?? `The dashboard answered ${response.status}.`);
      }
      entry.value = await read(response);
    }).catch((error) => {
      viewer.answers.delete(from);
      throw error instanceof TypeError ? new Error("The dashboard does not answer.") : error;
    });
    entry.promise.catch(() => {});
    return entry;
  });
}

const address = (seen, what) => seen.folder + what + seen.query;
const readLevels = async (response) => {
  const about = JSON.parse(response.headers.get("X-Levels"));
  return { ...about, steps: new Uint16Array(await response.arrayBuffer()) };
};
const readJson = (response) => response.json();

// What a picture is drawn from.
function needs(viewer, shot) {
  const image = picture(viewer, shot.screen);
  const levels = shot.seen.map((seen) => answer(viewer, address(seen, "levels"), readLevels));
  return { image, levels, first: [image, ...levels], regions: shot.seen.map(() => ({ value: null })), truth: null };
}

// And what is drawn over it; asked for afterwards, so that nothing waits for it.
function rest(viewer, shot, wanted) {
  wanted.regions = shot.seen.map((seen) => answer(viewer, address(seen, "regions"), readJson));
  wanted.truth = shot.outlines ? answer(viewer, shot.outlines, readJson) : null;
  return [...wanted.regions, ...(wanted.truth ? [wanted.truth] : [])];
}

const settled = (entries) => Promise.allSettled(entries.map((entry) => entry.promise));

// ------------------------------------------------------------------------------------------------ showing a picture

function show(viewer, another) {
  const shot = viewer.data.shots[viewer.index];
  viewer.shot = shot;
  viewer.root.dataset.shown = shot.id;
  if (another) {
    Object.assign(viewer, { shapes: [], taken: false });
    if (!viewer.size || viewer.size[0] !== shot.height || viewer.size[1] !== shot.width) reset(viewer);
    viewer.root.querySelector(".type").value = shot.type ?? "";
  }
  viewer.size = [shot.height, shot.width];
  heading(viewer);
  panels(viewer);
  const wanted = needs(viewer, shot);
  viewer.needed = wanted;
  const { first } = wanted;
  const ready = () => first.every((entry) => entry.value);
  const current = () => viewer.root && viewer.needed === wanted;
  clearTimeout(viewer.slow);
  waiting(viewer, null);
  // With the next frame: of several steps at once only the last is drawn.
  const soon = () => requestAnimationFrame(() => current() && done());
  if (ready()) soon();
  else {
    viewer.slow = setTimeout(() => {
      if (!current() || ready()) return;
      waiting(viewer, "Computing the heatmap …");
      draw(viewer); // what is there of it; the former one must not stand under another name
    }, WAIT_MS);
    Promise.all(first.map((entry) => entry.promise)).then(soon, (error) => {
      if (current()) waiting(viewer, error.message, () => show(viewer, false));
    });
  }

  function done() {
    clearTimeout(viewer.slow);
    waiting(viewer, null);
    const over = rest(viewer, shot, wanted);
    draw(viewer);
    facts(viewer);
    viewer.root.dataset.drawn = shot.id;
    settled(over).then(() => {
      if (!current()) return;
      draw(viewer);
      facts(viewer);
      ahead(viewer, wanted);
    });
  }
}

// One neighbour after the other, so that they don't stand in the way of what is asked for.
async function ahead(viewer, wanted) {
  for (const step of AHEAD) {
    const shot = viewer.data.shots[viewer.index + step];
    if (!shot || viewer.needed !== wanted) continue;
    const next = needs(viewer, shot);
    await settled(next.first);
    await settled(rest(viewer, shot, next));
  }
  if (viewer.root && viewer.needed === wanted) viewer.root.dataset.ahead = viewer.shot.id;
}

function heading(viewer) {
  const { shot, data, root } = viewer;
  root.querySelector(".name").textContent = shot.name;
  const chips = shot.seen.flatMap((seen, number) => {
    const of = data.lenses.length > 1 ? `${data.lenses[number].title}: ` : "";
    const shape = seen.decision === "reject" ? "✕" : "✓";
    return [
      text("span", `chip ${seen.decision}`, `${of}${shape} ${seen.decision}`),
      text("span", "score", `score ${figure(seen.score)}`),
      ...(seen.wrong ? [text("span", "chip", seen.wrong)] : []),
    ];
  });
  chips.push(text("span", "muted", shot.truth));
  const said = viewer.marks.get(shot.id)?.label ?? shot.marked;
  if (said) chips.push(text("span", "chip", said === "normal" ? "marked: fine" : "marked: defect"));
  root.querySelector(".chips").replaceChildren(...chips);
  root.querySelector(".place").textContent = `${data.first + viewer.index} of ${data.total}`;
  const [previous, next] = root.querySelectorAll(".step");
  previous.disabled = viewer.index === 0;
  next.disabled = viewer.index === data.shots.length - 1;
}

function facts(viewer) {
  const { shot, data, needed, root, look } = viewer;
  const found = root.querySelector(".found");
  const parts = needed.regions.map((entry, number) => {
    const box = document.createElement("div");
    const of = data.lenses.length > 1 ? `${data.lenses[number].title}: ` : "";
    if (!entry.value) return box;
    const { regions, count, area, height, width } = entry.value;
    const share = (100 * area) / (height * width);
    const said = count ? `${count} region${count === 1 ? "" : "s"} beyond what normal parts reach, ${percent(share)} of the picture`
      : "no region beyond what normal parts reach";
    box.append(text("div", "muted", of + said));
    if (count) box.append(table(viewer, regions));
    return box;
  });
  found.replaceChildren(...parts);
  const links = [link("Picture", shot.original, shot.file)];
  shot.seen.forEach((seen, number) => {
    const of = data.lenses.length > 1 ? ` (${data.lenses[number].title})` : "";
    const chosen = `&opacity=${look.opacity}&colours=${encodeURIComponent(look.palette)}`;
    links.push(
      link(`Overlay PNG${of}`, address(seen, "overlay.png") + chosen), link(`Map TIFF${of}`, address(seen, "map.tiff")),
      link(`Map NPY${of}`, address(seen, "map.npy")), link(`JSON${of}`, address(seen, "result.json")),
    );
  });
  root.querySelector(".files").replaceChildren(text("span", "muted", "Download:"), ...links);
}

function table(viewer, regions) {
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const name of ["area", "of the picture", "box x, y", "centre", "highest level"]) head.append(text("th", "", name));
  const body = made.createTBody();
  for (const region of regions) {
    const [left, top, right, bottom] = region.box;
    const row = body.insertRow();
    row.title = "Click to look at it";
    row.onclick = () => look(viewer, region.box);
    for (const cell of [
      `${region.area.toLocaleString("en")} px`, percent(100 * region.share), `${left}–${right}, ${top}–${bottom}`,
      region.centroid.map((value) => value.toFixed(0)).join(", "), figure(region.peak),
    ]) row.append(text("td", "", cell));
  }
  scroll.append(made);
  return scroll;
}

const percent = (value) => `${value < 0.1 && value > 0 ? value.toFixed(3) : value.toFixed(1)} %`;
const figure = (value) => value.toFixed(3).replace("-", "−");

function waiting(viewer, said, again) {
  const element = viewer.root.querySelector(".waiting");
  element.hidden = said === null;
  element.classList.toggle("failed", Boolean(again));
  const box = document.createElement("div");
  box.append(said ?? "");
  if (again) {
    const button = text("button", "", "Try again");
    button.type = "button";
    button.onclick = again;
    box.append(" ", button);
  }
  element.replaceChildren(box);
}

// ------------------------------------------------------------------------------------------------ panels and their view

// The kinds of panels that there is something to see in.
function offered(viewer) {
  return Object.keys(PANELS).filter((kind) => kind !== "truth" || viewer.data.labelled);
}

// Those of them that somebody has open; one is always.
function opened(viewer) {
  const kinds = offered(viewer);
  const chosen = kinds.filter((kind) => viewer.look.panels.includes(kind));
  return chosen.length ? chosen : [kinds[0]];
}

function panels(viewer) {
  const { data, shot, root } = viewer;
  const wanted = [];
  for (const kind of opened(viewer)) {
    if (kind === "picture" || kind === "truth") wanted.push({ kind, lens: 0, title: PANELS[kind] });
    else data.lenses.forEach((lens, number) => {
      const title = data.lenses.length > 1 ? `${PANELS[kind]} · ${lens.title}` : PANELS[kind];
      wanted.push({ kind, lens: number, title });
    });
  }
  const holder = root.querySelector(".panels");
  const upright = shot.height > shot.width;
  const columns = wanted.length === 1 ? 1 : wanted.length % 3 === 0 && (wanted.length > 3 || upright) ? 3 : 2;
  holder.style.setProperty("--columns", columns);
  const shape = JSON.stringify([wanted, shot.height, shot.width]);
  if (viewer.shape === shape && viewer.panels?.[0]?.canvas.isConnected) {
    viewer.panels.forEach((panel) => remark(panel, shot));
    return;
  }
  viewer.shape = shape;
  viewer.panels = wanted.map((panel) => {
    const box = document.createElement("div");
    box.className = "panel";
    box.style.aspectRatio = `${shot.width} / ${shot.height}`;
    box.style.maxHeight = wanted.length === 1 ? "72vh" : "44vh";
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    box.append(canvas, text("span", "title", panel.title), text("span", "remark", ""));
    const made = { ...panel, canvas, remark: box.lastChild };
    pointers(viewer, made);
    remark(made, shot);
    return made;
  });
  viewer.watch.disconnect();
  holder.replaceChildren(...viewer.panels.map((panel) => panel.canvas.parentElement));
  viewer.panels.forEach((panel) => viewer.watch.observe(panel.canvas));
}

function remark(panel, shot) {
  const of = { picture: "original", heat: "with its heatmap", map: "its anomaly map", truth: "with its ground truth" };
  panel.canvas.setAttribute("aria-label", `${shot.name}, ${of[panel.kind]}`);
  const unseen = panel.kind === "heat" ? shot.seen[panel.lens].unseen : 0;
  const said = panel.kind === "truth" ? shot.remark
    : unseen ? `The grey margin, ${unseen} % of the picture, is cut away by the crop: this model never sees it.` : "";
  panel.remark.textContent = said;
  panel.remark.hidden = !said;
}

function reset(viewer) {
  viewer.zoom = 1;
  viewer.centre = null;
}

function look(viewer, [left, top, right, bottom]) {
  const { shot } = viewer;
  viewer.zoom = Math.min(MAX_ZOOM, Math.max(1, 0.4 * Math.min(shot.width / (right - left), shot.height / (bottom - top))));
  viewer.centre = [(left + right) / 2, (top + bottom) / 2];
  draw(viewer);
}

// Where the picture lies on a canvas: pixels of the canvas per pixel of the picture, and the offset of its corner.
function placed(viewer, canvas) {
  const { width, height } = viewer.shot;
  const scale = Math.min(canvas.width / width, canvas.height / height) * viewer.zoom;
  const centre = viewer.centre ?? [width / 2, height / 2];
  const along = (size, length, middle) => {
    const half = size / 2 / scale;
    const held = length > 2 * half ? Math.min(length - half, Math.max(half, middle)) : length / 2;
    return size / 2 - held * scale;
  };
  return { scale, left: along(canvas.width, width, centre[0]), top: along(canvas.height, height, centre[1]) };
}

function pointers(viewer, panel) {
  const { canvas } = panel;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const { scale, left, top } = placed(viewer, canvas);
    const dense = canvas.width / box.width;
    return [((event.clientX - box.left) * dense - left) / scale, ((event.clientY - box.top) * dense - top) / scale];
  };
  let from = null;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = at(event);
    const zoom = Math.min(MAX_ZOOM, Math.max(1, viewer.zoom * Math.exp(-event.deltaY / 400)));
    const { width, height } = viewer.shot;
    const [cx, cy] = middle(viewer, canvas) ?? [width / 2, height / 2];
    const ratio = viewer.zoom / zoom; // what is under the pointer stays there
    viewer.centre = [x + (cx - x) * ratio, y + (cy - y) * ratio];
    viewer.zoom = zoom;
    draw(viewer);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    const point = at(event);
    from = point;
    if (viewer.tool) {
      viewer.taken = false;
      viewer.shapes.push([point]);
    }
    viewer.root.focus({ preventScroll: true });
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = at(event);
    if (from && viewer.tool === "lasso") viewer.shapes.at(-1).push(inside(viewer, point));
    else if (from && viewer.tool === "box") viewer.shapes[viewer.shapes.length - 1] = boxed(inside(viewer, from), inside(viewer, point));
    else if (from) {
      const [cx, cy] = middle(viewer, canvas);
      viewer.centre = [cx + from[0] - point[0], cy + from[1] - point[1]];
    }
    viewer.pointer = point;
    read(viewer, point);
    draw(viewer);
  });
  const end = () => {
    if (from && viewer.tool && viewer.shapes.at(-1).length < 3) viewer.shapes.pop();
    from = null;
    masks(viewer);
    draw(viewer);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => {
    viewer.pointer = null;
    draw(viewer);
  });
  canvas.addEventListener("dblclick", () => {
    reset(viewer);
    draw(viewer);
  });
}

function middle(viewer, canvas) {
  const { scale, left, top } = placed(viewer, canvas);
  return [(canvas.width / 2 - left) / scale, (canvas.height / 2 - top) / scale];
}

const boxed = ([x, y], [u, v]) => [[x, y], [u, y], [u, v], [x, v]];
const inside = ({ shot }, [x, y]) => [Math.min(shot.width, Math.max(0, x)), Math.min(shot.height, Math.max(0, y))];

// Says what the models see at a place of the picture.
function read(viewer, [x, y]) {
  const { shot, data, needed } = viewer;
  const element = viewer.root.querySelector(".readout");
  if (x < 0 || y < 0 || x >= shot.width || y >= shot.height) {
    element.textContent = "";
    return;
  }
  const levels = needed.levels.map((entry, number) => {
    if (!entry.value) return "";
    const level = sample(entry.value, x, y);
    const reach = level > data.lenses[number].threshold ? "beyond normal" : "normal";
    const of = data.lenses.length > 1 ? `${data.lenses[number].title}: ` : "";
    return `${of}level ${figure(level)} (${reach})`;
  });
  element.textContent = `x ${Math.floor(x)}, y ${Math.floor(y)} · ${levels.join(" · ")}`;
}

function sample({ steps, width, height, low, high, picture: [tall, wide] }, x, y) {
  const u = Math.min(width - 1, Math.max(0, (x * width) / wide - 0.5));
  const v = Math.min(height - 1, Math.max(0, (y * height) / tall - 0.5));
  const [u0, v0] = [Math.floor(u), Math.floor(v)];
  const [u1, v1] = [Math.min(width - 1, u0 + 1), Math.min(height - 1, v0 + 1)];
  const row = (at) => steps[at * width + u0] * (1 - u + u0) + steps[at * width + u1] * (u - u0);
  return low + ((row(v0) * (1 - v + v0) + row(v1) * (v - v0)) / 65535) * (high - low);
}

// ------------------------------------------------------------------------------------------------ drawing

function draw(viewer) {
  cancelAnimationFrame(viewer.frame);
  // At once where a picture was asked for; moving the pointer draws once per frame.
  if (viewer.pointer) viewer.frame = requestAnimationFrame(() => paint(viewer));
  else paint(viewer);
}

function paint(viewer) {
  if (!viewer.root || !viewer.needed) return;
  const { needed, look, shot } = viewer;
  for (const panel of viewer.panels) {
    const { canvas, kind, lens } = panel;
    const dense = Math.min(devicePixelRatio || 1, 2);
    const box = canvas.parentElement.getBoundingClientRect();
    const [wide, tall] = [Math.max(1, Math.round(box.width * dense)), Math.max(1, Math.round(box.height * dense))];
    if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall });
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, wide, tall);
    const { scale, left, top } = placed(viewer, canvas);
    pen.setTransform(scale, 0, 0, scale, left, top);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    const line = (1.6 * dense) / scale;
    const image = needed.image.value;
    const levels = needed.levels[lens]?.value;
    // Far in, pixels are shown as they are.
    if (scale > 6) pen.imageSmoothingEnabled = false;
    if (image && kind !== "map") pen.drawImage(image, 0, 0, shot.width, shot.height);
    pen.imageSmoothingEnabled = true;
    if (levels && (kind === "heat" || kind === "map")) {
      pen.globalAlpha = kind === "heat" ? look.opacity / 100 : 1;
      pen.drawImage(layer(viewer, address(shot.seen[lens], "levels"), levels, lens, kind), 0, 0, shot.width, shot.height);
      pen.globalAlpha = 1;
      veil(pen, shot, shot.seen[lens].view);
      const regions = needed.regions[lens].value;
      if (look.contours && regions) contour(pen, regions.outlines, line, kind === "heat" ? "#fff" : "#000");
    }
    const truth = needed.truth?.value;
    if (kind === "truth" && truth) contour(pen, truth.outlines, 1.4 * line, TRUTH);
    drawn(pen, viewer, line);
    if (viewer.pointer && viewer.panels.length > 1) cross(pen, viewer.pointer, line, shot);
  }
}

function veil(pen, shot, view) {
  if (!view) return;
  const [top, left, bottom, right] = view;
  pen.fillStyle = "rgb(200 200 200 / .75)";
  pen.fillRect(0, 0, shot.width, top);
  pen.fillRect(0, bottom, shot.width, shot.height - bottom);
  pen.fillRect(0, top, left, bottom - top);
  pen.fillRect(right, top, shot.width - right, bottom - top);
}

function contour(pen, lines, width, colour) {
  pen.beginPath();
  for (const line of lines) trace(pen, line);
  pen.lineJoin = "round";
  pen.lineWidth = 2 * width;
  pen.strokeStyle = "rgb(0 0 0 / .45)"; // seen on bright pictures too
  pen.stroke();
  pen.lineWidth = width;
  pen.strokeStyle = colour;
  pen.stroke();
}

function trace(pen, line) {
  line.forEach(([x, y], number) => (number ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
}

function drawn(pen, viewer, line) {
  const taken = viewer.taken ? viewer.needed.regions[0]?.value?.outlines ?? [] : [];
  const shapes = [...viewer.shapes, ...taken];
  if (!shapes.length) return;
  pen.beginPath();
  for (const shape of shapes) trace(pen, shape);
  pen.fillStyle = "rgb(230 0 126 / .3)";
  pen.fill(viewer.taken ? "evenodd" : "nonzero");
  pen.lineWidth = line;
  pen.strokeStyle = TRUTH;
  pen.stroke();
}

function cross(pen, [x, y], line, shot) {
  pen.beginPath();
  pen.moveTo(x, 0);
  pen.lineTo(x, shot.height);
  pen.moveTo(0, y);
  pen.lineTo(shot.width, y);
  pen.lineWidth = line / 2;
  pen.strokeStyle = "rgb(255 255 255 / .7)";
  pen.stroke();
}

// The colours of a map, as a picture of its own; made once per map, scale and palette.
function layer(viewer, name, levels, number, kind) {
  const key = `${kind} ${viewer.look.palette} ${name}`;
  return kept(viewer.layers, key, 2 * KEPT_PICTURES, () => {
    const { data, look } = viewer;
    const { low, high, steps, width, height } = levels;
    const table = new Uint32Array(TABLE);
    const colours = shades(data.palettes[look.palette], data.leap);
    for (let entry = 0; entry < TABLE; entry += 1) {
      const place = position(low + (entry / (TABLE - 1)) * (high - low), data.lenses[number]);
      const alpha = kind === "heat" ? coverage(place, data) : 1;
      table[entry] = (Math.round(255 * alpha) << 24) | colours[Math.floor(SHADES * place)];
    }
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const made = new ImageData(width, height);
    const pixels = new Uint32Array(made.data.buffer);
    for (let place = 0; place < steps.length; place += 1) pixels[place] = table[steps[place] >> 4];
    canvas.getContext("2d").putImageData(made, 0, 0);
    return canvas;
  });
}

// The same three functions as in heatmap.py, which says why.
function position(level, { low, threshold, high }) {
  const clipped = Math.min(high, Math.max(low, level));
  return clipped < threshold ? (0.5 * (clipped - low)) / (threshold - low) : 0.5 + (0.5 * (clipped - threshold)) / (high - threshold);
}

// Colours of a palette at equal distances; the leap stands between two of them.
function shades(stops, leap) {
  if (made.stops !== stops) {
    made = { stops, colours: new Uint32Array(SHADES + 1) };
    for (let shade = 0; shade <= SHADES; shade += 1) {
      const [red, green, blue] = colour(shade / SHADES, stops, leap);
      made.colours[shade] = (blue << 16) | (green << 8) | red;
    }
  }
  return made.colours;
}

let made = {}; // of the palette used last

function colour(place, stops, leap) {
  const half = place < leap ? stops.slice(0, 3) : stops.slice(3);
  const upper = Math.max(1, half.findIndex((stop) => place <= stop[0]));
  const [from, to] = [half[upper - 1], half[upper]];
  const share = Math.min(1, Math.max(0, (place - from[0]) / (to[0] - from[0])));
  return [1, 2, 3].map((channel) => Math.round(from[channel] + share * (to[channel] - from[channel])));
}

function coverage(place, { leap, visible }) {
  const rising = Math.min(1, Math.max(0, (place - visible) / (leap - visible)));
  return rising * rising * (3 - 2 * rising);
}

// ------------------------------------------------------------------------------------------------ controls

function mount(viewer, root) {
  viewer.root = root;
  viewer.shape = null;
  viewer.watch?.disconnect();
  viewer.watch = new ResizeObserver(() => paint(viewer));
  document.removeEventListener("keydown", viewer.keys, true);
  viewer.keys = (event) => pressed(viewer, event);
  document.addEventListener("keydown", viewer.keys, true);
  document.removeEventListener("pointerdown", viewer.elsewhere, true);
  viewer.elsewhere = (event) => {
    if (viewer.asked !== null && !event.composedPath().includes(viewer.root)) ask(viewer, viewer.asked, ELSEWHERE_MS);
  };
  document.addEventListener("pointerdown", viewer.elsewhere, true);
  root.querySelectorAll(".step").forEach((button) => {
    button.onclick = () => go(viewer, Number(button.dataset.step));
  });
  root.querySelector(".opacity").oninput = (event) => {
    viewer.look.opacity = Number(event.target.value);
    changed(viewer);
  };
  root.querySelector(".palette").onchange = (event) => {
    viewer.look.palette = event.target.value;
    changed(viewer);
  };
  root.querySelector(".contours").onchange = (event) => {
    viewer.look.contours = event.target.checked;
    changed(viewer);
  };
  root.querySelector(".fine").onclick = () => mark(viewer, "normal");
  root.querySelector(".defect").onclick = () => mark(viewer, "anomalous");
  root.querySelector(".undo").onclick = () => undo(viewer);
  root.querySelectorAll("[data-tool]").forEach((button) => {
    button.onclick = () => {
      viewer.tool = viewer.tool === button.dataset.tool ? null : button.dataset.tool;
      masks(viewer);
    };
  });
  root.querySelector(".take").onclick = () => {
    viewer.taken = !viewer.taken;
    viewer.shapes = [];
    masks(viewer);
    draw(viewer);
  };
  root.querySelector(".clear").onclick = () => {
    Object.assign(viewer, { shapes: [], taken: false, tool: null });
    masks(viewer);
    draw(viewer);
  };
}

function changed(viewer) {
  remember(viewer);
  controls(viewer);
  draw(viewer);
  facts(viewer);
}

function controls(viewer) {
  const { root, data, look } = viewer;
  root.querySelector(".opacity").value = look.opacity;
  root.querySelector(".tools output").textContent = `${look.opacity} %`;
  root.querySelector(".contours").checked = look.contours;
  const palette = root.querySelector(".palette");
  palette.replaceChildren(...Object.keys(data.palettes).map((name) => new Option(name, name, false, name === look.palette)));
  root.querySelector(".shown").replaceChildren(...offered(viewer).map((kind) => {
    const button = text("button", "", PANELS[kind]);
    button.type = "button";
    const on = opened(viewer).includes(kind);
    button.setAttribute("aria-pressed", String(on));
    button.onclick = () => {
      if (on && opened(viewer).length === 1) return;
      look.panels = on ? look.panels.filter((one) => one !== kind) : [...look.panels, kind];
      remember(viewer);
      controls(viewer);
      panels(viewer);
      draw(viewer);
    };
    return button;
  }));
  const types = root.querySelector("datalist");
  types.replaceChildren(...data.types.map((type) => new Option(type)));
  root.querySelector(".mark").hidden = !data.marking;
  const bar = root.querySelector(".legend canvas").getContext("2d");
  for (let x = 0; x < 256; x += 1) {
    bar.fillStyle = `rgb(${colour(x / 255, data.palettes[look.palette], data.leap).join(" ")})`;
    bar.fillRect(x, 0, 1, 1);
  }
  masks(viewer);
}

function masks(viewer) {
  const { root } = viewer;
  root.classList.toggle("drawing", Boolean(viewer.tool));
  root.querySelectorAll("[data-tool]").forEach((button) => {
    button.setAttribute("aria-pressed", String(viewer.tool === button.dataset.tool));
  });
  root.querySelector(".take").setAttribute("aria-pressed", String(viewer.taken));
  root.querySelector(".clear").hidden = !viewer.shapes.length && !viewer.taken;
}

function pressed(viewer, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !viewer.root?.isConnected) return;
  const target = event.composedPath()[0];
  if (target instanceof Element && target.closest("input:not([type=checkbox]), textarea, select, [contenteditable=true], [role=slider], [role=dialog]")) return;
  const does = {
    ArrowLeft: () => go(viewer, -1),
    ArrowRight: () => go(viewer, 1),
    a: () => mark(viewer, "normal"),
    r: () => mark(viewer, "anomalous"),
    u: () => undo(viewer),
    Escape: () => putDown(viewer),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!does) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // Streamlit has keys of its own
  does();
}

function putDown(viewer) {
  viewer.tool = null;
  masks(viewer);
}

function text(kind, name, content) {
  const element = document.createElement(kind);
  if (name) element.className = name;
  element.textContent = content;
  return element;
}

function link(title, to, name) {
  const element = text("a", "", title);
  element.href = to;
  element.download = name ?? "";
  return element;
}
