// What the server cannot know or do: the reader's zone, a question before an act, the menu, the theme, files dropped on a
// page. Every page works without it, but for dropping files.
"use strict";

// Moments: written in UTC by the server, shown in the reader's zone; "ago" is kept current.
const absolute = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(seconds) {
  const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  return relative.format(Math.round(-seconds / size), unit);
}

function showTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-show]")) {
    const at = new Date(time.dateTime);
    const text = { ago: () => ago((Date.now() - at) / 1000), clock: () => clock.format(at), moment: () => absolute.format(at) }[time.dataset.show]();
    if (time.textContent !== text) time.textContent = text;
    if (time.dataset.show === "ago" && !time.title) time.title = absolute.format(at);
  }
  for (const title of root.querySelectorAll("title[data-at]")) {
    const text = title.textContent.replace(/^\d\d:\d\d UTC/, clock.format(new Date(title.dataset.at)));
    if (title.textContent !== text) title.textContent = text;
  }
}
showTimes();
setInterval(() => showTimes(), 5000);
new MutationObserver(() => showTimes()).observe(document.body, { childList: true, subtree: true, characterData: true });

// The live stream: say so when it breaks off; end where the server ends it.
const offline = document.querySelector("[data-offline]");
let lost = null;
document.addEventListener("htmx:sse:error", () => { lost ??= setTimeout(() => { offline.hidden = false; }, 3000); });
document.addEventListener("htmx:sse:after:connection", () => { clearTimeout(lost); lost = null; offline.hidden = true; });
document.addEventListener("ended", (event) => {
  if (event.detail?.data === "login") location.reload();
  else { offline.textContent = "What stood here was deleted."; offline.hidden = false; }
});

// A question before an act.
const dialog = document.getElementById("confirm");
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.confirm || form.dataset.confirmed) return;
  event.preventDefault();
  document.getElementById("confirm-text").textContent = form.dataset.confirm;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    form.dataset.confirmed = "1";
    form.requestSubmit(event.submitter ?? undefined);
  };
});
dialog?.addEventListener("click", (event) => {
  const answer = event.target.closest("[data-answer]")?.dataset.answer;
  if (answer) dialog.close(answer);
});

// Menu, theme, choices that need no button.
document.addEventListener("click", (event) => {
  const menu = event.target.closest("[data-menu]");
  if (menu) {
    const open = menu.getAttribute("aria-expanded") !== "true";
    menu.setAttribute("aria-expanded", String(open));
    document.getElementById("menu").classList.toggle("open", open);
  }
  if (event.target.closest("[data-theme-switch]")) {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", dark ? "light" : "dark");
  }
  if (event.target.closest("[data-back]") && history.length > 1) { event.preventDefault(); history.back(); }
});
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (!copy) return;
  await navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent);
  copy.textContent = "Copied";
});
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
});
document.documentElement.classList.add("has-script");

// Usage: the days that one may choose show only where they count, and the reader's own zone is one press away.
const period = document.querySelector(".usage-filters [name=period]");
if (period) {
  const days = document.querySelectorAll("[data-days]");
  const showDays = () => days.forEach((each) => { each.hidden = period.value !== "days"; });
  period.addEventListener("change", showDays);
  showDays();
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const button = document.querySelector("[data-own-zone]");
  if (own && own !== period.form.zone.value) {
    button.textContent = `Use ${own}`;
    button.hidden = false;
    button.addEventListener("click", () => { period.form.zone.value = own; period.form.requestSubmit(); });
  }
}

// Search: the key / leads to its box.
document.addEventListener("keydown", (event) => {
  const box = document.querySelector("[data-search-box]");
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || !box || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  box.focus();
  box.select();
});

// Documents: the chunk that was chosen, and its passage, come into sight within their frames.
let shownPassage = null;
function showPassage() {
  const chosen = document.querySelector(".preview-chunk[aria-current]");
  if (!chosen || chosen.id === shownPassage) return;
  shownPassage = chosen.id;
  for (const part of [chosen, document.querySelector(".preview-text mark")]) {
    const frame = part?.closest("[tabindex]"), at = part && part.getBoundingClientRect().top - frame.getBoundingClientRect().top;
    if (part && (at < 0 || at > frame.clientHeight * 0.7)) frame.scrollTop += at - 40;
  }
}
showPassage();
document.addEventListener("htmx:after:swap", showPassage);

// Documents: files dropped anywhere on the page, or chosen, are sent one by one, so that the progress of each shows and
// what is wrong with one harms no other. Without this the form sends all of them at once.
const uploadForm = document.querySelector("form[data-upload]");
if (uploadForm) {
  const AT_ONCE = 2, TRIES = 20;
  const find = (name) => uploadForm.querySelector(`[data-${name}]`);
  const box = find("drop"), rows = find("upload-rows"), summary = find("upload-summary"), chooser = uploadForm.file;
  const token = document.querySelector("meta[name=form-token]").content;
  const waiting = [];
  let running = 0, depth = 0;

  const randomId = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 15) | 64; bytes[8] = (bytes[8] & 63) | 128;
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  };
  const size = (bytes) => bytes >= 1e6 ? `${(bytes / 1e6).toPrecision(3)} MB` : `${Math.ceil(bytes / 1e3)} KB`;

  function addFiles(files) {
    if (!files.length) return;
    const wishes = new FormData(uploadForm);
    for (const name of ["file", "form_token", "url"]) wishes.delete(name);
    if (files.length > 1) wishes.set("batchId", randomId());
    for (const file of files) {
      const row = find("upload-row").content.firstElementChild.cloneNode(true);
      row.querySelector(".upload-name").textContent = file.name;
      row.querySelector("progress").setAttribute("aria-label", `upload of ${file.name}`);
      rows.append(row);
      enqueue({ file, row, wishes, key: randomId(), tries: 0 });
    }
    find("uploads").hidden = false;
  }

  function enqueue(one) {
    one.state = "waiting";
    say(one, "waits", [["Stop", () => { one.request?.abort(); end(one, "stopped", "stopped"); }]]);
    waiting.push(one);
    next();
  }

  function next() {
    while (running < AT_ONCE && waiting.length) {
      const one = waiting.shift();
      if (one.state !== "waiting") continue;
      one.state = "sending";
      running += 1;
      send(one);
    }
    sum();
  }

  function send(one) {
    const body = new FormData();
    for (const [name, value] of one.wishes) body.append(name, value);
    body.append("file", one.file, one.file.name);
    const request = one.request = new XMLHttpRequest();
    request.open("POST", uploadForm.getAttribute("action"));
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-Form-Token", token);
    request.setRequestHeader("Idempotency-Key", one.key);
    request.upload.onprogress = ({ loaded, total }) => {
      one.row.querySelector("progress").value = total ? 100 * loaded / total : 0;
      one.row.querySelector(".upload-state").textContent = loaded < total ? `${size(loaded)} of ${size(total)}` : "is being kept";
    };
    request.onload = () => answered(one, request);
    request.onerror = () => end(one, "bad", "the connection broke off, or the file cannot be read", true);
    request.send(body);
  }

  function answered(one, request) {
    let answer = null;
    try { answer = JSON.parse(request.responseText); } catch { /* a page: the login, or a proxy's */ }
    if (request.status === 202 && answer) return settle(one, answer);
    if ([429, 503].includes(request.status) && (one.tries += 1) < TRIES) {
      const seconds = Number(request.getResponseHeader("Retry-After")) || 5;
      one.row.querySelector(".upload-state").textContent = `too many at once: goes on within ${seconds} s`;
      running -= 1;
      one.state = "pausing";
      setTimeout(() => { if (one.state === "pausing") enqueue(one); }, seconds * 1000);
      return next();
    }
    if (answer?.detail) return end(one, "bad", answer.detail);
    if ([200, 401, 403].includes(request.status)) return end(one, "bad", "you are not let in any more: reload this page");
    end(one, "bad", `the service answered ${request.status}`, true);
  }

  function settle(one, job) {
    one.row.querySelector("progress").value = 100;
    const link = document.createElement("a");
    link.href = `/documents/jobs/${job.jobId}`;
    link.textContent = job.isKnown ? "Its job" : "Look";
    link.setAttribute("aria-label", `Job of ${one.file.name}`);
    const said = job.isKnown ? "was uploaded before" : job.errorMessage ?? "taken in";
    end(one, job.errorMessage && !job.isKnown ? "bad" : "good", said);
    one.row.querySelector(".upload-acts").replaceChildren(link);
  }

  function end(one, state, text, again = false) {
    if (one.state === "sending") running -= 1;
    one.state = state;
    one.row.classList.toggle("bad", state === "bad");
    say(one, text, again ? [["Try again", () => { one.row.classList.remove("bad"); enqueue(one); }]] : []);
    next();
  }

  function say(one, text, acts) {
    one.row.querySelector(".upload-state").textContent = text;
    one.row.querySelector(".upload-acts").replaceChildren(...acts.map(([name, act]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", className: "button small", textContent: name, onclick: act });
      button.setAttribute("aria-label", `${name}: ${one.file.name}`);
      return button;
    }));
    one.row.upload = one;
  }

  function sum() {
    const all = [...rows.children].map((row) => row.upload).filter(Boolean);
    const count = (state) => all.filter((one) => one.state === state).length;
    const open = all.filter(isOpen).length;
    const parts = [`${count("good")} of ${all.length} uploaded`];
    if (count("bad")) parts.push(`${count("bad")} refused`);
    if (open) parts.push(`${open} to go`);
    summary.textContent = parts.join(", ");
  }
  const isOpen = (one) => ["waiting", "sending", "pausing"].includes(one.state);

  // Folders that were dropped, with what is in them; hidden files are left out, as the command line does.
  async function readEntry(entry) {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader(), found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) break;
      for (const each of some) if (!each.name.startsWith(".")) found.push(...await readEntry(each));
    }
    return found;
  }

  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => { if (hasFiles(event)) { depth += 1; box.classList.add("over"); } });
  document.addEventListener("dragleave", (event) => { if (hasFiles(event) && (depth -= 1) <= 0) { depth = 0; box.classList.remove("over"); } });
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    box.classList.remove("over");
    const files = [...event.dataTransfer.files];
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return addFiles(files);
    try {
      addFiles((await Promise.all(entries.map(readEntry))).flat());
    } catch (error) {
      find("uploads").hidden = false;
      summary.textContent = `The folder cannot be read: ${error.message}`;
    }
  });
  chooser.addEventListener("change", () => { const files = [...chooser.files]; chooser.value = ""; addFiles(files); });
  find("upload-clear").addEventListener("click", () => {
    for (const row of [...rows.children]) if (!isOpen(row.upload)) row.remove();
    if (rows.children.length) sum(); else find("uploads").hidden = true;
  });
  uploadForm.url.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); find("fetch").click(); }
  });
  addEventListener("beforeunload", (event) => {
    if ([...rows.children].some((row) => isOpen(row.upload))) event.preventDefault();
  });
}
