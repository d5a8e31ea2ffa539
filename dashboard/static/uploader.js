// Sends chosen files to the routes of dashboard/uploads.py in slices, and goes on where the server is after any break.
// A job belongs to the module, not to what is drawn: it goes on while the visitor looks at another page of the dashboard.
// Every text is set as text, never as markup.

const SLICE = 8 * 2 ** 20; // bytes of a request
const LEAST_SLICE = 2 ** 18; // a proxy that refuses even this has to be told otherwise
const SMALL = SLICE / 4; // files below share requests with their neighbours
const TOGETHER = 1000; // of them at most
const AT_ONCE = 3; // requests
const STALLED_MS = 60_000;
const LONGEST_WAIT_MS = 15_000;
const TICKET_MS = 20_000;
const LEFT_OUT_LISTED = 500;
const LEFT_OUT_OPEN = 10; // so few are shown without a click

const jobs = new Map(); // by the widget's key

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const job = jobs.get(data.key) ?? fresh(jobs, data.key);
  Object.assign(job, { data, setStateValue, setTriggerValue, root: parentElement.querySelector(".uploader") });
  job.ticketCame?.();
  if (job.phase === "done" && data.gone === job.id) reset(job);
  if (job.phase === "done" && data.completed !== job.id) setStateValue("completed", job.id);
  if (job.phase !== "done" && data.completed) setStateValue("completed", null);
  listen(job);
  draw(job);
  const shown = job.root;
  return () => {
    if (job.root === shown) job.root = null;
  };
}

function fresh(map, key) {
  const job = { phase: "idle", deleted: new Set(), samples: [], active: new Set(), confirmed: 0 };
  map.set(key, job);
  addEventListener("beforeunload", (event) => {
    if (["reading", "sending", "paused", "lost", "finishing"].includes(job.phase)) event.preventDefault();
  });
  addEventListener("online", () => job.run?.wake?.());
  return job;
}

// One attempt to send; whatever belongs to a stopped one ends without a word.
function start(job) {
  stop(job);
  job.run = { stopped: false, requests: new Set() };
  job.clock = setInterval(() => draw(job), 200);
  return job.run;
}

function stop(job) {
  clearInterval(job.clock);
  if (!job.run) return;
  job.run.stopped = true;
  for (const request of [...job.run.requests]) request.abort();
  job.run.wake?.();
}

function reset(job) {
  stop(job);
  Object.assign(job, { phase: "idle", id: null, files: null, refusal: null, leftOut: null, asked: false });
}

// ---- choosing ----

function listen(job) {
  const [drop, files, folder] = [".drop", ".files", ".folder"].map((each) => job.root.querySelector(each));
  job.root.querySelector(".choose-files").onclick = () => files.click();
  job.root.querySelector(".choose-folder").onclick = () => folder.click();
  for (const input of [files, folder]) {
    input.onchange = () => {
      const chosen = [...input.files].map((file) => ({ name: file.webkitRelativePath || file.name, file }));
      input.value = ""; // the same can be chosen again
      if (chosen.length) take(job, async () => chosen);
    };
  }
  drop.ondragenter = drop.ondragover = (event) => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondragleave = (event) => {
    if (!drop.contains(event.relatedTarget)) drop.classList.remove("over");
  };
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    // The list of dropped things is emptied as soon as this function returns.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    if (entries.length) take(job, () => walk(job, entries));
  };
}

async function walk(job, entries) {
  const found = [];
  const folders = [];
  const look = async (some) => {
    const seen = some.filter(({ name }) => !hidden(name));
    folders.push(...seen.filter((entry) => entry.isDirectory));
    const files = seen.filter((entry) => entry.isFile);
    found.push(...(await Promise.all(files.map(opened))));
    job.note = `${count(found.length)} files found`;
  };
  await look(entries);
  while (folders.length) {
    const reader = folders.pop().createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // at most 100
      if (!some.length) break;
      await look(some);
    }
  }
  return found;
}

async function opened(entry) {
  const file = await new Promise((done, failed) => entry.file(done, failed));
  return { name: entry.fullPath.replace(/^\//, ""), file };
}

function hidden(name) {
  return name.startsWith(".") || ["__MACOSX", "Thumbs.db", "desktop.ini"].includes(name);
}

async function take(job, list) {
  reset(job);
  Object.assign(job, { phase: "reading", title: "Reading what you chose", note: "", size: 0 });
  const run = start(job);
  draw(job);
  try {
    const listed = (await list()).map(({ name, file }) => ({ name: name.toWellFormed?.() ?? name, file })); // JSON needs it
    const chosen = listed.filter(({ name }) => !name.split("/").some(hidden));
    const taken = chosen.filter(({ name }) => job.data.suffixes.some((suffix) => name.toLowerCase().endsWith(suffix)));
    const kept = new Set(taken);
    const others = chosen.filter((each) => !kept.has(each)).map(({ name }) => name);
    job.leftOut = others.map((name) => `${name}: ${reason(job, name)}`);
    if (!taken.length) {
      throw new Refused(
        chosen.length
          ? `${chosen.length === 1 ? `'${chosen[0].name}' is no` : `None of the ${count(chosen.length)} files is a`} picture, table or archive. Choose ${job.data.formats}`
          : "There are no files in it. Choose another folder.",
      );
    }
    taken.sort((one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : 0)); // the same list another time
    settle(job, taken);
    const files = taken.map(({ name, file }) => [name, file.size, file.lastModified]);
    const begun = await patiently(job, run, () =>
      ask(job, run, "POST", "", JSON.stringify({ dataset: job.data.dataset, files, left_out: others })),
    );
    job.id = begun.id;
    const refused = new Map(begun.refused);
    settle(job, taken.filter((_, index) => !refused.has(index))); // the server's numbers count without them
    job.leftOut = [...refused.values(), ...job.leftOut];
    await goOn(job, begun.received);
  } catch (error) {
    if (run.stopped) return;
    const { leftOut } = job;
    reset(job);
    Object.assign(job, { leftOut, refusal: sentence(error) });
    draw(job);
  }
}

function settle(job, files) {
  job.files = files;
  job.title = files.length === 1 ? files[0].name : `${count(files.length)} files`;
  job.starts = new Float64Array(files.length + 1); // of each file, were all one after the other
  files.forEach(({ file }, index) => (job.starts[index + 1] = job.starts[index] + file.size));
  job.size = job.starts[files.length];
}

function reason(job, name) {
  return job.data.reasons[name.match(/\.[^./]+$/)?.[0].toLowerCase()] ?? job.data.reason;
}

// ---- sending ----

class Refused extends Error {} // with a sentence of the server's
class Lost extends Error {} // try again
class Gone extends Error {} // the server has forgotten the upload

async function goOn(job, received) {
  const run = start(job);
  Object.assign(job, { phase: "sending", samples: [], slice: SLICE });
  try {
    for (;;) {
      job.pieces = planned(job, received);
      job.active = new Set();
      job.confirmed = job.size - job.pieces.reduce((sum, piece) => sum + piece.end - place(job, piece), 0);
      await Promise.all(Array.from({ length: AT_ONCE }, () => work(job, run)));
      job.phase = "finishing";
      const answered = await patiently(job, run, () => finished(job, run));
      if (answered.complete) break;
      received = answered.received;
      job.phase = "sending";
    }
    stop(job);
    job.phase = "done";
    if (job.root) job.setStateValue("completed", job.id); // else once the page is looked at again
  } catch (error) {
    if (run.stopped) return;
    stop(job);
    Object.assign(job, { phase: "failed", failure: sentence(error), forgotten: error instanceof Gone });
  }
  draw(job);
}

async function finished(job, run) {
  try {
    return await ask(job, run, "POST", `/${job.id}/complete`);
  } catch (error) {
    if (error.status !== 409) throw error;
    return ask(job, run, "GET", `/${job.id}`); // the server misses something: see what
  }
}

// Pieces of work: one large file, or neighbouring small ones that share a request.
function planned(job, received) {
  const pieces = [];
  let open = null;
  job.files.forEach(({ file }, index) => {
    const offset = received[index] ?? 0;
    if (offset >= file.size) {
      if (file.size) open = null; // an empty file is no obstacle
      return;
    }
    const small = offset === 0 && file.size <= SMALL;
    const end = job.starts[index + 1];
    if (small && open && end - job.starts[open.index] <= SLICE && index - open.index < TOGETHER) {
      Object.assign(open, { last: index, end });
      return;
    }
    pieces.push({ index, offset, last: index, end });
    open = small ? pieces.at(-1) : null;
  });
  return pieces;
}

function place(job, { index, offset }) {
  return job.starts[index] + offset;
}

async function work(job, run) {
  let piece;
  while ((piece = job.pieces.shift())) {
    job.active.add(piece);
    piece.underWay = 0;
    while (piece.index <= piece.last) {
      const at = await patiently(job, run, (retried) =>
        retried ? ask(job, run, "GET", `/${job.id}/${piece.index}?to=${piece.last}`) : sent(job, run, piece),
      );
      const before = place(job, piece);
      Object.assign(piece, { index: at.index, offset: at.offset });
      job.confirmed += place(job, piece) - before;
    }
    job.active.delete(piece);
  }
}

async function sent(job, run, piece) {
  const parts = [];
  let room = job.slice;
  for (let index = piece.index, from = piece.offset; index <= piece.last && room > 0; index += 1, from = 0) {
    const { file } = job.files[index];
    parts.push(file.slice(from, Math.min(file.size, from + room)));
    room -= parts.at(-1).size;
  }
  try {
    return await ask(job, run, "PATCH", `/${job.id}/${piece.index}?to=${piece.last}`, new Blob(parts), piece);
  } catch (error) {
    if (error.status === 409 && error.answer) return error.answer; // the server knows better where it goes on
    if (error.status === 413 && !error.answer && job.slice > LEAST_SLICE) {
      job.slice /= 2; // a proxy before the server takes no more at once
      return piece;
    }
    if (error instanceof Lost) await readable(job, piece);
    throw error;
  } finally {
    piece.underWay = 0;
  }
}

// A browser reports a file that was changed or moved as a broken connection.
async function readable(job, piece) {
  const { name, file } = job.files[piece.index];
  try {
    await file.slice(piece.offset, piece.offset + 1).arrayBuffer();
  } catch {
    throw new Refused(`File '${name}' can no longer be read on this computer: it was changed, moved or deleted. Cancel, and choose the files again.`);
  }
}

// Call until it succeeds; while the server can't be reached, all who call wait together.
async function patiently(job, run, call) {
  for (let retried = false; ; retried = true) {
    const { ticket } = job.data;
    try {
      return await call(retried);
    } catch (error) {
      if (run.stopped) throw error;
      if (error instanceof Lost) {
        run.waiting ??= reachable(job, run).finally(() => (run.waiting = null));
        await run.waiting;
      } else if (error.status === 401) {
        await anotherTicket(job, run, ticket, error);
      } else {
        throw error;
      }
      if (run.stopped) throw error;
    }
  }
}

async function reachable(job, run) {
  const before = job.phase;
  for (let wait = 1000; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    Object.assign(job, { phase: "lost", retryAt: Date.now() + wait, samples: [] });
    draw(job);
    await new Promise((done) => {
      run.wake = done;
      setTimeout(done, wait);
    });
    if (run.stopped) return;
    job.retryAt = Date.now();
    try {
      await ask(job, run, "GET", `/${job.id ?? "0".repeat(32)}/0`);
      break;
    } catch (error) {
      if (run.stopped) return;
      if (!(error instanceof Lost)) break; // it answers: whoever asks next learns what
    }
  }
  job.phase = before;
  draw(job);
}

// All who are refused wait together for the page to be drawn again, which brings a new ticket.
async function anotherTicket(job, run, old, error) {
  if (job.data.ticket === old) {
    run.ticketWanted ??= new Promise((done) => {
      job.ticketCame = done;
      setTimeout(done, TICKET_MS);
      if (job.root) job.setTriggerValue("ticket", Date.now());
    }).finally(() => (run.ticketWanted = null));
    await run.ticketWanted;
  }
  if (job.data.ticket === old) throw error;
}

function ask(job, run, method, path, body, piece) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    let stalled;
    const alive = () => {
      clearTimeout(stalled);
      stalled = setTimeout(() => request.abort(), STALLED_MS);
    };
    request.open(method, job.data.address + path);
    request.setRequestHeader("Upload-Ticket", job.data.ticket);
    if (piece) {
      request.setRequestHeader("Upload-Offset", piece.offset);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = (event) => {
        piece.underWay = event.loaded;
        alive();
      };
      alive();
    }
    request.onloadend = () => {
      clearTimeout(stalled);
      run.requests.delete(request);
      const answer = parsed(request.responseText);
      if (request.status >= 200 && request.status < 300 && answer) return done(answer);
      const ours = answer?.error;
      const passing = [0, 408, 429, 502, 503, 504].includes(request.status);
      const Kind = passing ? Lost : request.status === 404 && ours ? Gone : Refused;
      const error = new Kind(ours ?? `The server answered ${request.status} ${request.statusText}. Try again, or ask who runs it.`);
      failed(Object.assign(error, { status: request.status, answer: ours ? answer : null }));
    };
    run.requests.add(request);
    request.send(body);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function sentence(error) {
  return error instanceof Refused || error instanceof Gone || error instanceof Lost
    ? error.message
    : `The files can't be read (${error.message}). Choose them again.`;
}

async function again(job) {
  const run = start(job);
  job.phase = "sending";
  try {
    const { received } = await patiently(job, run, () => ask(job, run, "GET", `/${job.id}`));
    await goOn(job, received);
  } catch (error) {
    if (run.stopped) return;
    stop(job);
    Object.assign(job, { phase: "failed", failure: sentence(error), forgotten: error instanceof Gone });
    draw(job);
  }
}

function cancel(job) {
  const { id } = job;
  reset(job);
  if (id) remove(job, id);
  draw(job);
}

function remove(job, id) {
  job.deleted.add(id);
  draw(job);
  const run = { requests: new Set() };
  ask(job, run, "DELETE", `/${id}`).catch(() => null); // what stays is deleted after a week
}

// ---- drawing ----

function draw(job) {
  const { root, phase, data } = job;
  if (!root) return;
  const find = (name) => root.querySelector(`.${name}`);
  root.dataset.phase = phase;
  find("drop").hidden = phase !== "idle";
  find("progress").hidden = phase === "idle";
  text(find("formats"), data.formats);
  text(find("refusal"), phase === "idle" ? job.refusal : null);
  drawLeftOut(job, find("left-out"));
  drawUnfinished(job, find("unfinished"));
  if (phase === "idle") return;
  const share = phase === "done" ? 1 : job.size ? done(job) / job.size : 0;
  const percent = Math.floor(100 * share);
  text(find("title"), phase === "done" ? `✓ ${job.title}` : job.title);
  text(find("percent"), `${percent} %`);
  text(find("figures"), figures(job));
  find("filled").style.width = `${100 * share}%`;
  find("bar").setAttribute("aria-valuenow", percent);
  drawActions(job, find("actions"));
}

function done(job) {
  return job.confirmed + [...(job.active ?? [])].reduce((sum, piece) => sum + piece.underWay, 0);
}

function figures(job) {
  const sizes = () => `${bytes(done(job))} of ${bytes(job.size)}`;
  switch (job.phase) {
    case "reading":
      return job.note;
    case "sending":
      return [sizes(), ...pace(job)].join(" · ");
    case "lost": {
      const seconds = Math.ceil((job.retryAt - Date.now()) / 1000);
      const when = seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again …";
      return `Connection lost. What was sent is kept. ${when}`;
    }
    case "paused":
      return `Paused at ${sizes()}. Go on, or stop?`;
    case "finishing":
      return "All sent. The server checks that everything arrived …";
    case "failed":
      return job.failure;
    default:
      return `${bytes(job.size)} uploaded.`;
  }
}

// Speed over the last ten seconds, and the time that is left at that speed.
function pace(job) {
  const now = { at: Date.now(), sent: done(job) };
  job.samples.push(now);
  while (job.samples.length > 2 && now.at - job.samples[0].at > 10_000) job.samples.shift();
  const first = job.samples[0];
  const speed = (1000 * (now.sent - first.sent)) / (now.at - first.at);
  if (now.at - first.at < 1000 || !(speed > 0)) return [];
  return [`${bytes(speed)}/s`, `${duration((job.size - now.sent) / speed)} left`];
}

function drawActions(job, actions) {
  const wanted = {
    reading: [],
    sending: ["cancel"],
    paused: ["sure", "back"],
    lost: ["now", "cancel"],
    finishing: [],
    failed: job.forgotten ? ["over"] : ["again", "cancel"],
    done: ["more"],
  }[job.phase];
  const shown = (job.asked && wanted.includes("cancel") ? ["sure", "back"] : wanted).join(" ");
  if (actions.dataset.shown === shown && actions.job === job) return; // a button under the pointer must stay
  actions.dataset.shown = shown;
  actions.job = job;
  const buttons = {
    cancel: () => button("Cancel", () => askFirst(job, true)),
    sure: () => button("Stop and delete what was sent", () => cancel(job)),
    back: () => button("Go on", () => (job.phase === "paused" ? again(job) : askFirst(job, false)), "main"),
    now: () => button("Try now", () => job.run.wake?.()),
    again: () => button("Go on", () => again(job), "main"),
    over: () => button("Start over", () => cancel(job), "main"),
    more: () => button("Upload something else", () => more(job)),
  };
  actions.replaceChildren(...shown.split(" ").filter(Boolean).map((name) => buttons[name]()));
}

// Nothing more is sent while the question stands.
function askFirst(job, asked) {
  if (asked && job.id && ["sending", "lost"].includes(job.phase)) {
    stop(job);
    job.phase = "paused";
  } else {
    job.asked = asked;
  }
  draw(job);
}

function more(job) {
  reset(job);
  job.setStateValue("completed", null);
  draw(job);
}

function drawLeftOut(job, details) {
  const all = job.leftOut ?? [];
  details.hidden = !all.length;
  if (!all.length || (details.job === job && details.drawn === all)) return; // an open list must stay
  Object.assign(details, { job, drawn: all, open: all.length <= LEFT_OUT_OPEN });
  text(details.querySelector("summary"), all.length === 1 ? "1 file is left out" : `${count(all.length)} files are left out`);
  const lines = all.slice(0, LEFT_OUT_LISTED);
  if (all.length > lines.length) lines.push(`and ${count(all.length - lines.length)} more`);
  details.querySelector("ul").replaceChildren(
    ...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
  );
}

function drawUnfinished(job, list) {
  const ours = new Set([...jobs.values()].map(({ id }) => id)); // those go on in this window
  const rows = job.phase === "idle" ? job.data.unfinished.filter(({ id }) => !job.deleted.has(id) && !ours.has(id)) : [];
  list.hidden = !rows.length;
  list.replaceChildren(
    ...rows.map(({ id, title, received, size, quiet }) => {
      const row = document.createElement("li");
      const label = document.createElement("span");
      const what = `${title}, ${bytes(received)} of ${bytes(size)}.`;
      label.textContent = quiet
        ? `An upload stopped half way: ${what} Choose the same again, and it goes on.`
        : `An upload was under way a moment ago: ${what} If no other window sends it, choose the same again, and it goes on.`;
      row.append(label);
      if (quiet) row.append(button("Delete", () => remove(job, id), "quiet"));
      return row;
    }),
  );
}

function button(label, action, kind = "") {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: label, className: kind, onclick: action });
  return element;
}

function text(element, content) {
  element.hidden = !content;
  if (element.textContent !== (content ?? "")) element.textContent = content ?? "";
}

function count(number) {
  return number.toLocaleString("en");
}

function bytes(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(number >= 1e11 ? 0 : 1)} GB`;
  if (number >= 1e6) return `${(number / 1e6).toFixed(number >= 1e8 ? 0 : 1)} MB`;
  return `${Math.ceil(number / 1e3)} kB`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}
