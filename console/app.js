// The console: forms to calls, answers to the page. All texts are set as text, never as markup.

import { Problem, call, upload, useToken } from "./api.js";

const STATUSES = ["pending", "processing", "shipped", "delivered", "cancelled"];
const PAGE_SIZE = 10;
const WATCH_MS = 3000;
const RECEIPT_TRIES = 20; // then it is asked for again when the order is opened again
const RECEIPT_LINK_MS = 240000; // the links live for five minutes

const $ = (id) => document.getElementById(id);
const list = { filter: {}, cursors: [null], next: null }; // cursors of the pages up to the one shown
let listing = Promise.resolve(); // the last call of the list, waiting or done
let shown = null; // the order shown: { order, etag, receiptTries, receiptAt }

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function moment(text) {
  return new Date(text).toLocaleString();
}

function announce(text) {
  $("announcement").textContent = text;
}

function clearMessage() {
  $("message").hidden = true;
}

function showProblem(error) {
  const problem = error instanceof Problem ? error : { title: "The console failed", detail: String(error) };
  $("message-title").textContent = problem.status ? `${problem.title} (${problem.status})` : problem.title;
  $("message-detail").textContent = problem.detail || "";
  const errors = (problem.errors || []).map(({ pointer, parameter, header, detail }) =>
    element("li", `${pointer || parameter || header}: ${detail}`),
  );
  $("message-errors").replaceChildren(...errors);
  $("message").hidden = false;
  announce("");
  if (problem.status === 401) $("access").hidden = false;
}

/** Run what a person asked for: buttons wait for it, and its problem is shown. */
async function run(action, trigger) {
  const button = trigger instanceof HTMLFormElement ? trigger.querySelector("button") : trigger;
  if (button?.getAttribute("aria-busy") === "true") return;
  button?.setAttribute("aria-busy", "true");
  clearMessage();
  try {
    await action();
  } catch (error) {
    showProblem(error);
  } finally {
    button?.removeAttribute("aria-busy");
  }
}

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    run(action, event.target);
  });
}

// What answers

async function showAbout() {
  const about = await (await call("GET", "")).json();
  $("runtime").textContent = about.runtime;
  $("release").textContent = about.version;
  if (about.authentication !== "none") $("access").hidden = false;
  return about;
}

// The list

/** Call the list when the calls before are through: a page follows from the one that is shown then. */
function inTurn(action) {
  listing = listing.catch(() => {}).then(action);
  return listing;
}

async function showPage(cursors, filter) {
  const query = new URLSearchParams({ limit: PAGE_SIZE, ...filter });
  const cursor = cursors.at(-1);
  if (cursor) query.set("cursor", cursor);
  const page = await (await call("GET", `orders?${query}`)).json();
  Object.assign(list, { filter, cursors, next: page.next_cursor });
  $("orders").replaceChildren(...page.items.map(row));
  if (!page.items.length) {
    const cell = element("td", page.next_cursor ? "None on this page; go on to the next." : "No orders.", { colspan: 6 });
    const line = element("tr", "");
    line.append(cell);
    $("orders").append(line);
  }
  $("page").textContent = `Page ${list.cursors.length}`;
  $("previous").disabled = list.cursors.length === 1;
  $("next").disabled = !list.next;
}

function row(order) {
  const line = element("tr", "", { "data-id": order.id });
  if (shown?.order.id === order.id) line.className = "chosen";
  const open = element("button", order.id.slice(-12), { type: "button", title: order.id, "aria-label": `Open order ${order.id}` });
  open.addEventListener("click", () => run(() => openOrder(order.id), open));
  const first = element("td", "");
  first.append(open);
  line.append(first);
  const texts = [order.customer, order.product, order.quantity, order.status, moment(order.created_at)];
  line.append(...texts.map((text) => element("td", text)));
  return line;
}

function firstPage() {
  const filter = {};
  if ($("filter-customer").value.trim()) filter.customer = $("filter-customer").value.trim();
  if ($("filter-status").value) filter.status = $("filter-status").value;
  return inTurn(() => showPage([null], filter));
}

// A cursor holds for the filter of its page only, whatever the form says by now.

async function nextPage() {
  if (list.next) await showPage([...list.cursors, list.next], list.filter);
}

async function previousPage() {
  if (list.cursors.length > 1) await showPage(list.cursors.slice(0, -1), list.filter);
}

// One order

async function openOrder(id) {
  const response = await call("GET", `orders/${encodeURIComponent(id)}`);
  shown = { order: null, etag: null, receiptTries: 0, receiptAt: null };
  $("attachments").replaceChildren();
  await showOrder(response);
  $("order").hidden = false;
  for (const line of $("orders").children) line.classList.toggle("chosen", line.dataset.id === id);
  $("order-heading").focus();
  await Promise.all([showAttachments(), showReceipt()]);
}

async function showOrder(response) {
  const order = await response.json();
  Object.assign(shown, { order, etag: response.headers.get("etag") });
  $("order-heading").textContent = `Order ${order.id.slice(-12)}`;
  for (const field of ["id", "customer", "product", "quantity", "status", "version"]) $(`order-${field}`).textContent = order[field];
  $("order-created").textContent = moment(order.created_at);
  $("order-updated").textContent = moment(order.updated_at);
  const line = $("orders").querySelector(`[data-id="${order.id}"]`);
  if (line) line.children[4].textContent = order.status;
}

async function showReceipt() {
  const watched = shown;
  if (watched.receiptAt ? Date.now() - watched.receiptAt < RECEIPT_LINK_MS : watched.receiptTries >= RECEIPT_TRIES) return;
  watched.receiptTries += 1;
  // The redirect is followed to the document; its own address is what the link then opens.
  const response = await call("GET", `orders/${watched.order.id}/receipt`, { allow: [404] });
  if (shown !== watched) return;
  if (response.status === 404) {
    $("order-receipt").textContent = watched.receiptTries < RECEIPT_TRIES ? "being written …" : "not there yet";
    return;
  }
  if (!watched.receiptAt) announce("The receipt is there.");
  watched.receiptAt = Date.now();
  $("order-receipt").replaceChildren(element("a", "Open receipt", { href: response.url, target: "_blank", rel: "noopener noreferrer" }));
}

async function showAttachments() {
  const watched = shown;
  const { items } = await (await call("GET", `orders/${watched.order.id}/attachments`)).json();
  if (shown !== watched) return;
  const lines = items.map((each) => {
    const line = element("li", "");
    line.append(element("a", each.name, { href: each.url, rel: "noopener noreferrer" }), ` ${each.size_bytes} bytes`);
    return line;
  });
  $("attachments").replaceChildren(...lines);
}

/** See what others changed. A failure here is not shown: nobody asked, and the next look may succeed. */
async function watch() {
  if (document.hidden) return;
  try {
    await showAbout();
    const watched = shown;
    if (!watched?.order) return;
    const response = await call("GET", `orders/${watched.order.id}`, { headers: { "if-none-match": watched.etag }, allow: [304] });
    if (shown === watched && response.status === 200) {
      await showOrder(response);
      announce(`The order is ${watched.order.status} now.`);
    }
    if (shown === watched) await showReceipt();
  } catch {
    $("runtime").textContent = "nothing, just now";
  }
}

// What a person does

let placing = null; // the key of the order being placed, kept while it is unknown whether it was

onSubmit("place-form", async () => {
  const form = new FormData($("place-form"));
  const body = { customer: form.get("customer"), product: form.get("product"), quantity: Number(form.get("quantity")) };
  const text = JSON.stringify(body);
  if (placing?.text !== text) placing = { text, key: newKey() };
  const order = await (await call("POST", "orders", { body, headers: { "idempotency-key": placing.key } })).json();
  placing = null;
  $("place-form").reset();
  await firstPage();
  await openOrder(order.id);
  announce(`Order ${order.id} is placed.`);
});

onSubmit("filter-form", firstPage);

onSubmit("status-form", async () => {
  const watched = shown;
  const body = { status: $("new-status").value };
  const path = `orders/${watched.order.id}/status`;
  try {
    const response = await call("PUT", path, { body, headers: { "if-match": watched.etag } });
    if (shown === watched) await showOrder(response);
    announce(`The order is ${body.status} now.`);
  } catch (problem) {
    // Someone else was first, or this may not follow: show the order as it is now, and why.
    if (problem.current && shown === watched) await showOrder(await call("GET", `orders/${watched.order.id}`));
    throw problem;
  }
});

onSubmit("upload-form", async () => {
  const [file] = $("file").files;
  const body = { name: file.name, content_type: file.type || "application/octet-stream", size_bytes: file.size };
  const offer = await (await call("POST", `orders/${shown.order.id}/attachments`, { body })).json();
  await upload(offer, file);
  $("upload-form").reset();
  await showAttachments();
  announce(`${file.name} is uploaded.`);
});

onSubmit("access-form", async () => {
  useToken($("token").value);
  await firstPage();
  announce("The token is in use.");
});

$("message-close").addEventListener("click", clearMessage);
$("next").addEventListener("click", () => run(() => inTurn(nextPage), $("next")));
$("previous").addEventListener("click", () => run(() => inTurn(previousPage), $("previous")));

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

for (const status of STATUSES) {
  $("filter-status").append(element("option", status, { value: status }));
  $("new-status").append(element("option", status, { value: status }));
}

run(async () => {
  const about = await showAbout();
  if (about.authentication === "none") await firstPage();
});
setInterval(watch, WATCH_MS);
