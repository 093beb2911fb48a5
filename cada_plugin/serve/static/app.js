// The page: a form that becomes a query, the query that becomes the address, and the hits that become tiles. Everything
// that comes from the gallery (file names, cameras, columns) reaches the document by textContent alone.

const PAGE = 48;
const LISTS = { q: "sentences", without: "without", camera: "cameras", like: "like", right: "right", wrong: "wrong" };
const get = (id) => document.getElementById(id);

let about; // the answer of /api/gallery
let query = empty();
let files = []; // pictures that were dropped in: {file, address}
let hits = [];
let more = false; // whether the server has further hits
let running; // AbortController of the search that goes on
let shown = null; // the hit that is shown large, which a new list may not have
const tiles = new Map(); // by id, so that a new order moves tiles and does not load pictures again

function empty() {
  return { sentences: [], combine: "and", without: [], cameras: [], after: "", before: "", where: {}, least: noLeast(),
    perPerson: false, like: [], right: [], wrong: [] };
}

// The least score of a hit. A likelihood and a cosine are kept apart: 0.5 of one is not 0.5 of the other.
function noLeast() {
  return { likelihood: 0, cosine: 0 };
}

function element(name, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// ---------------------------------------------------------------- talking to the server

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.detail ?? `The server answers with error ${answer.status}.`);
}

function request(stage, offset) {
  const { perPerson, least, ...rest } = query;
  const body = { ...rest, per_person: perPerson, topk: PAGE, offset, stage, after: rest.after || null, before: rest.before || null };
  if (least[leastOf()] > 0) body[likelihoods() ? "min_score" : "min_cosine"] = least[leastOf()];
  if (!files.length) {
    return ["api/search", { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }];
  }
  const form = new FormData();
  for (const { file } of files) form.append("picture", file);
  form.append("query", JSON.stringify(body));
  return ["api/search-by-picture", { body: form }];
}

function find(stage, offset) {
  const [path, options] = request(stage, offset);
  return ask(path, { method: "POST", signal: running.signal, ...options });
}

// Likelihoods are calibrated for sentences alone.
function likelihoods() {
  return about.calibrated && query.sentences.length && !query.without.length && !query.like.length && !query.right.length
    && !files.length;
}

// Which least score the slider sets.
function leastOf() {
  return likelihoods() || (!hasQuery() && about.calibrated) ? "likelihood" : "cosine";
}

// ---------------------------------------------------------------- searching

function hasQuery() {
  return query.sentences.length || query.like.length || files.length;
}

async function search({ remember = true } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  more = false; // the hits are still those of the query before, which have no further ones
  if (remember) {
    const address = toAddress();
    if (address !== location.search) history.pushState(null, "", address || location.pathname);
  }
  showForm();
  showMarked();
  if (!hasQuery()) {
    show([], false);
    say(`${about.images.toLocaleString()} images. Describe a person, or drop a picture in.`);
    return;
  }
  const begin = performance.now();
  const seconds = () => `${((performance.now() - begin) / 1000).toFixed(2)} s`;
  const twoStages = about.reranks && query.sentences.length && !query.right.length;
  let answered = false; // results of stage 1 stay if re-ranking fails
  say("Searching …");
  try {
    const first = await find("first", 0);
    answered = true;
    show(first.hits, twoStages ? false : first.more);
    if (twoStages && first.hits.length) {
      say(`First results in ${seconds()}, re-ranking …`);
      const final = await find("final", 0);
      show(final.hits, final.more);
    }
    say(hits.length ? `Best of ${about.images.toLocaleString()} images, ${seconds()}` : "Nothing is found with these filters.");
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!answered) show([], false);
    fail(error);
  }
}

let loading = false;
async function loadMore() {
  if (!more || loading) return;
  loading = true;
  const mine = running;
  try {
    const before = hits.length;
    const answer = await find("final", before);
    if (running === mine && hits.length === before) {
      show([...hits, ...answer.hits], answer.more && answer.hits.length > 0);
      if (hits.length === before) more = false; // the gallery changed meanwhile: do not ask for the same page for ever
    }
  } catch (error) {
    if (!mine.signal.aborted) {
      more = false;
      fail(error);
    }
  } finally {
    loading = false;
  }
}

function say(text) {
  get("status").className = "";
  get("status").textContent = text;
}

function fail(error) {
  if (error.status === 401) {
    showLogin();
    return;
  }
  get("status").className = "error";
  get("status").textContent = error.message;
}

// ---------------------------------------------------------------- the query as an address

function toAddress() {
  const words = new URLSearchParams();
  for (const [key, name] of Object.entries(LISTS)) for (const one of query[name]) words.append(key, one);
  if (query.combine === "or") words.set("combine", "or");
  for (const name of ["after", "before"]) if (query[name]) words.set(name, query[name]);
  for (const [name, values] of Object.entries(query.where)) for (const one of values) words.append("where", `${name}=${one}`);
  for (const [name, value] of Object.entries(query.least)) if (value > 0) words.set(`least_${name}`, value);
  if (query.perPerson) words.set("person", "1");
  const text = words.toString();
  return text && `?${text}`;
}

function fromAddress() {
  const words = new URLSearchParams(location.search);
  const read = empty();
  for (const [key, name] of Object.entries(LISTS)) read[name] = words.getAll(key).filter(Boolean);
  read.combine = words.get("combine") === "or" ? "or" : "and";
  read.after = words.get("after") ?? "";
  read.before = words.get("before") ?? "";
  for (const word of words.getAll("where")) {
    const cut = word.indexOf("=");
    if (cut > 0) (read.where[word.slice(0, cut)] ??= []).push(word.slice(cut + 1));
  }
  for (const name of Object.keys(read.least)) read.least[name] = Number(words.get(`least_${name}`)) || 0;
  read.perPerson = words.get("person") === "1";
  return read;
}

// ---------------------------------------------------------------- the form

function addSentence(text = "") {
  const first = !get("sentences").children.length;
  const input = element("input", { type: "search", maxlength: 2000, "aria-label": "Description of the person",
    enterkeyhint: "search", placeholder: first ? "a woman in a red coat with a black backpack" : "another sentence" });
  input.value = text;
  const row = element("div", { class: "sentence" }, input);
  if (!first) {
    const remove = element("button", { type: "button", text: "×", "aria-label": "Remove this sentence" });
    remove.addEventListener("click", () => { row.remove(); showCombine(); });
    row.append(remove);
  }
  get("sentences").append(row);
  showCombine();
  return input;
}

function showCombine() {
  get("combine-label").hidden = get("sentences").children.length < 2;
}

function readForm() {
  query.least[leastOf()] = Number(get("least").value); // of what the slider showed, before the query is another
  const texts = [...get("sentences").querySelectorAll("input")].map((input) => input.value.trim());
  query.sentences = texts.filter(Boolean);
  query.combine = query.sentences.length > 1 ? get("combine").value : "and";
  query.without = get("without").value.split(";").map((text) => text.trim()).filter(Boolean);
  query.cameras = [...get("cameras").querySelectorAll("input:checked")].map((input) => input.value);
  query.after = get("after").value;
  query.before = get("before").value;
  query.where = {};
  for (const select of get("columns").querySelectorAll("select")) {
    if (select.value) query.where[select.dataset.column] = [select.value];
  }
  query.perPerson = get("per-person").checked;
}

function showForm() {
  const wanted = query.sentences.length ? query.sentences : [""];
  const there = [...get("sentences").querySelectorAll("input")].map((input) => input.value.trim());
  if (JSON.stringify(there) !== JSON.stringify(wanted)) { // else the keyboard's focus stays where it is
    get("sentences").replaceChildren();
    for (const text of wanted) addSentence(text);
  }
  get("combine").value = query.combine;
  get("without").value = query.without.join("; ");
  for (const input of get("cameras").querySelectorAll("input")) input.checked = query.cameras.includes(input.value);
  get("after").value = query.after;
  get("before").value = query.before;
  for (const select of get("columns").querySelectorAll("select")) {
    select.value = query.where[select.dataset.column]?.[0] ?? "";
  }
  get("least").value = query.least[leastOf()];
  get("per-person").checked = query.perPerson;
  showLeast();
  const used = [query.without.length, query.cameras.length, query.after, query.before, query.least[leastOf()], query.perPerson,
    ...Object.keys(query.where)].filter(Boolean).length;
  get("toggle-filters").textContent = used ? `Filters (${used})` : "Filters";
}

function showLeast() {
  const value = Number(get("least").value);
  get("least-name").textContent = leastOf() === "likelihood" ? "Likelihood at least" : "Cosine at least";
  get("least-value").textContent = value > 0 ? value.toFixed(2) : "any";
}

function makeFilters() {
  for (const camera of about.cameras) {
    const input = element("input", { type: "checkbox", value: camera });
    get("cameras").append(element("label", {}, input, camera));
  }
  for (const [name, values] of Object.entries(about.columns)) {
    const options = values.map((value) => element("option", { value, text: value }));
    const select = element("select", {}, element("option", { value: "", text: "any" }), ...options);
    select.dataset.column = name;
    get("columns").append(element("label", { text: name }, select));
  }
}

// ---------------------------------------------------------------- tiles

const scoreOf = (hit) => hit.likelihood !== null ? `${Math.round(hit.likelihood * 100)} %` : `cos ${hit.cosine.toFixed(2)}`;
const timeOf = (hit) => hit.time ? hit.time.replace("T", " ").replace(/:\d\dZ$/, "") : "";

function tileOf(hit) {
  let tile = tiles.get(hit.id);
  if (!tile) {
    const image = element("img", { src: hit.thumbnail_uri, loading: "lazy", alt: "" });
    const open = element("button", { type: "button", class: "open" }, image);
    const right = element("button", { type: "button", class: "right", text: "✓", "aria-label": "Right" });
    const wrong = element("button", { type: "button", class: "wrong", text: "✗", "aria-label": "Wrong" });
    tile = element("li", { class: "hit" }, open, element("div", { class: "told" }), element("div", { class: "marks" }, right, wrong));
    image.addEventListener("error", () => tile.classList.add("gone"));
    open.addEventListener("click", () => showLarge(hits.findIndex((one) => one.id === hit.id)));
    right.addEventListener("click", () => mark("right", hit.id));
    wrong.addEventListener("click", () => mark("wrong", hit.id));
    tiles.set(hit.id, tile);
  }
  tile.dataset.id = hit.id;
  const told = [scoreOf(hit), hit.camera, timeOf(hit)];
  tile.querySelector(".open").setAttribute("aria-label", ["Open", ...told].filter(Boolean).join(", "));
  tile.querySelector(".told").replaceChildren(
    element("strong", { text: told[0] }), element("span", { text: told[1], title: told[1] }), element("span", { text: told[2] }));
  return tile;
}

function show(found, isMore) {
  const seen = new Set();
  hits = found.filter((hit) => !seen.has(hit.id) && seen.add(hit.id));
  more = isMore;
  const focused = document.activeElement?.closest?.(".hit");
  get("hits").replaceChildren(...hits.map(tileOf));
  for (const id of tiles.keys()) if (!seen.has(id)) tiles.delete(id);
  if (focused?.isConnected) focused.querySelector(".open").focus({ preventScroll: true });
  watch.unobserve(get("end")); // so that an end that stays in view is reported again
  watch.observe(get("end"));
}

const watch = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && loadMore(), { rootMargin: "800px" });

// ---------------------------------------------------------------- marks and pictures

function mark(kind, id) {
  query.right = query.right.filter((one) => one !== id);
  query.wrong = query.wrong.filter((one) => one !== id);
  query[kind].push(id);
  search();
}

function chip(kind, what, source, remove) {
  const button = element("button", { type: "button", text: "×", "aria-label": `Remove: ${what}` });
  button.addEventListener("click", remove);
  const image = element("img", { src: source, alt: "" });
  return element("span", { class: `chip ${kind}` }, image, element("span", { text: what }), button);
}

function showMarked() {
  const chips = files.map((one) => chip("like", "like this", one.address, () => {
    URL.revokeObjectURL(one.address);
    files = files.filter((other) => other !== one);
    search();
  }));
  for (const [kind, what] of [["like", "like this"], ["right", "right"], ["wrong", "wrong"]]) {
    chips.push(...query[kind].map((id) => chip(kind, what, `/api/thumbnails/${encodeURIComponent(id)}`, () => {
      query[kind] = query[kind].filter((one) => one !== id);
      search();
    })));
  }
  get("marked").replaceChildren(...chips);
  get("marked").hidden = !chips.length;
}

function addFiles(list) {
  const pictures = [...list].filter((file) => file.type.startsWith("image/"));
  if (!pictures.length) {
    if (list.length) fail(new Refused(400, "This is not a picture."));
    return;
  }
  readForm();
  files = [...files, ...pictures.map((file) => ({ file, address: URL.createObjectURL(file) }))].slice(-4);
  search();
}

// ---------------------------------------------------------------- one picture, large

function showLarge(place) {
  if (!hits[place]) return;
  const hit = (shown = hits[place]);
  get("picture").src = hit.uri;
  const facts = [["Rank", hit.rank], ["Likelihood", hit.likelihood === null ? "" : scoreOf(hit)], ["Cosine", hit.cosine.toFixed(3)],
    ["Match", hit.match?.toFixed(2)], ["Camera", hit.camera], ["Time (UTC)", timeOf(hit)], ["Person", hit.person],
    ...Object.entries(hit.columns), ["File", hit.path]];
  get("facts").replaceChildren(...facts.filter(([, value]) => value !== "" && value !== undefined)
    .flatMap(([name, value]) => [element("dt", { text: name }), element("dd", { text: value })]));
  if (!get("large").open) get("large").showModal();
  if (place > hits.length - 5) loadMore();
  get("explain").hidden = !(about.explains && query.sentences.length);
  showWhy();
}

function showNext(step) {
  const place = hits.findIndex((hit) => hit.id === shown.id);
  if (place >= 0) showLarge(place + step);
}

// ---------------------------------------------------------------- why a picture was found

let explaining = false; // whether pictures are explained as they are opened
let asking; // AbortController of the explanation that is waited for

async function showWhy() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const wanted = explaining && !get("explain").hidden;
  get("explain").setAttribute("aria-expanded", wanted);
  get("why").hidden = !wanted;
  get("why").replaceChildren();
  if (!wanted) return;
  get("why").append(element("p", { text: "Explaining …" }));
  const body = { id: shown.id, sentences: query.sentences, combine: query.combine };
  try {
    const answer = await ask("api/explain", { method: "POST", signal: mine.signal,
      headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    await get("picture").decode().catch(() => {}); // maps are drawn on it
    if (!mine.signal.aborted) get("why").replaceChildren(...answer.captions.flatMap(whyOf));
  } catch (error) {
    if (!mine.signal.aborted) get("why").replaceChildren(element("p", { class: "error", text: error.message }));
  }
}

function whyOf({ caption, match, phrases }, place, all) {
  const told = all.length > 1 ? `${caption} Match ${match.toFixed(2)}. ` : "";
  const drawn = phrases.some((phrase) => phrase.map);
  // docs/explain.md has the figures
  const lit = drawn ? "Lit: where the model looks for the phrase. As measured on drawn people, this does not explain the match; the numbers do. " : "";
  const judged = phrases.some((phrase) => phrase.verdict) ? "Yes or no: whether the phrase is true of the picture. " : "";
  const text = phrases.length ? `${told}${judged}${lit}Number: change of the match without the phrase.`
    : `${told}No attribute was recognised in this sentence.`;
  return [element("p", { text }), element("div", { class: "phrases" }, ...phrases.map(phraseOf))];
}

function phraseOf({ text, change, map, likelihood, verdict }) {
  const kind = change === null ? "" : change < 0 ? "for" : "against";
  const number = change === null ? "the only phrase" : `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)}`;
  const told = element("figcaption", { text });
  if (verdict) {
    const side = { yes: "for", no: "against", unsure: "" }[verdict];
    told.append(element("strong", { class: `verdict ${side}`, text: `${verdict}, ${Math.round(100 * likelihood)} %` }));
  }
  told.append(element("strong", { class: kind, text: number }));
  if (kind) told.append(element("span", { class: "hidden", text: kind === "for" ? " speaks for it" : " speaks against it" }));
  return element("figure", {}, ...(map ? [mapOf(map, text)] : []), told);
}

// The picture as it is where the map is 1, and faded where it is 0.
function mapOf(map, text) {
  const picture = get("picture");
  const ratio = picture.naturalHeight / picture.naturalWidth || 2;
  const canvas = element("canvas", { role: "img", "aria-label": `Where the model looks for: ${text}` });
  canvas.width = 120;
  canvas.height = Math.round(canvas.width * ratio);
  const fade = element("canvas");
  fade.width = map[0].length;
  fade.height = map.length;
  const pixels = new Uint8ClampedArray(map.flat().flatMap((value) => [236, 238, 241, 225 * (1 - value)]));
  fade.getContext("2d").putImageData(new ImageData(pixels, fade.width), 0, 0);
  const pen = canvas.getContext("2d");
  if (picture.naturalWidth) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(fade, 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function toggleWhy() {
  if (get("explain").hidden) return;
  explaining = !explaining;
  await showWhy();
  if (explaining) get("why").scrollIntoView({ block: "nearest" }); // on a telephone it is below the fold
}

function closeLarge() {
  asking?.abort();
  get("large").close();
  tiles.get(shown.id)?.querySelector(".open").focus();
}

function markShown(kind) {
  get("large").close();
  mark(kind, shown.id);
}

// ---------------------------------------------------------------- keys

function columnsOfGrid() {
  const tops = [...get("hits").children].map((tile) => tile.offsetTop);
  const next = tops.findIndex((top) => top !== tops[0]);
  return next < 0 ? tops.length : next;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (get("large").open) {
    const does = { ArrowLeft: () => showNext(-1), ArrowRight: () => showNext(1),
      r: () => markShown("right"), w: () => markShown("wrong"), e: toggleWhy }[event.key];
    if (does) { event.preventDefault(); does(); }
    return;
  }
  if (typing) {
    if (event.key === "ArrowDown" && event.target.type === "search" && hits.length) {
      event.preventDefault();
      tiles.get(hits[0].id).querySelector(".open").focus();
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    get("sentences").querySelector("input").focus();
    return;
  }
  const tile = event.target.closest(".hit");
  if (!tile) return;
  const place = hits.findIndex((hit) => hit.id === tile.dataset.id);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columnsOfGrid(), ArrowDown: columnsOfGrid() }[event.key];
  if (step) {
    event.preventDefault();
    const next = hits[place + step];
    if (next) tiles.get(next.id).querySelector(".open").focus();
  } else if (event.key === "r" || event.key === "w") {
    mark(event.key === "r" ? "right" : "wrong", tile.dataset.id);
  }
}

// ---------------------------------------------------------------- start

function showLogin(reason = "") {
  get("page").hidden = true;
  get("login").hidden = false;
  get("login-error").textContent = reason;
  get("token").focus();
}

async function logIn(token) {
  await ask("api/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
}

async function start() {
  try {
    about = await ask("api/gallery");
  } catch (error) {
    if (error.status === 401) return showLogin();
    get("page").hidden = false;
    return fail(error);
  }
  get("login").hidden = true;
  get("page").hidden = false;
  if (!get("cameras").children.length) makeFilters();
  query = fromAddress();
  await search({ remember: false });
  if (!hasQuery()) get("sentences").querySelector("input").focus();
}

get("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await logIn(get("token").value);
    get("token").value = "";
    await start();
  } catch (error) {
    showLogin(error.message);
  }
});
get("search").addEventListener("submit", (event) => { event.preventDefault(); readForm(); search(); });
get("add-sentence").addEventListener("click", () => addSentence().focus());
get("file").addEventListener("change", () => { addFiles(get("file").files); get("file").value = ""; });
get("toggle-filters").addEventListener("click", () => {
  get("filters").hidden = !get("filters").hidden;
  get("toggle-filters").setAttribute("aria-expanded", !get("filters").hidden);
});
get("filters").addEventListener("change", () => { readForm(); search(); });
get("least").addEventListener("input", showLeast);
get("earlier").addEventListener("click", () => showNext(-1));
get("later").addEventListener("click", () => showNext(1));
get("close").addEventListener("click", closeLarge);
get("large").addEventListener("cancel", (event) => { event.preventDefault(); closeLarge(); });
get("explain").addEventListener("click", toggleWhy);
get("is-right").addEventListener("click", () => markShown("right"));
get("is-wrong").addEventListener("click", () => markShown("wrong"));
get("more-like").addEventListener("click", () => {
  get("large").close();
  files = [];
  query = { ...query, sentences: [], without: [], least: noLeast(), like: [shown.id], right: [], wrong: [] };
  search();
});
document.addEventListener("keydown", onKey);
document.addEventListener("paste", (event) => event.clipboardData.files.length && addFiles(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) { event.preventDefault(); get("drop").hidden = false; }
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) get("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  get("drop").hidden = true;
  if (event.dataTransfer.files.length) { event.preventDefault(); addFiles(event.dataTransfer.files); }
});
window.addEventListener("popstate", () => { files = []; query = fromAddress(); search({ remember: false }); });
if (location.hash.startsWith("#token=")) { // the part of an address that no server sees
  const token = decodeURIComponent(location.hash.slice(7));
  history.replaceState(null, "", location.pathname + location.search);
  await logIn(token).catch(() => {});
}
await start();
