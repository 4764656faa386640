// The calls to the API. Its address is this page's parent, so the same files work under any prefix.

const base = new URL("..", import.meta.url);
let token = "";

export function useToken(text) {
  token = text.trim();
}

/** What went wrong, as the API says it (problem+json), or as well as we know. */
export class Problem extends Error {
  constructor(problem) {
    super(problem.detail);
    Object.assign(this, problem);
  }
}

/** Call the API; return the response, or throw a Problem. `allow` names statuses that are no problem. */
export async function call(method, path, { body, headers = {}, allow = [] } = {}) {
  const request = { method, headers: { ...headers }, cache: "no-store" };
  if (token) request.headers.authorization = `Bearer ${token}`;
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["content-type"] = "application/json";
  }
  const response = await reach(new URL(path, base), request, "The API");
  if (response.ok || allow.includes(response.status)) return response;
  throw await problemOf(response);
}

/** Send one file by a presigned POST: its fields first, the file last. */
export async function upload(offer, file) {
  const form = new FormData();
  for (const [name, value] of Object.entries(offer.fields)) form.append(name, value);
  form.append("file", file);
  const response = await reach(offer.url, { method: "POST", body: form }, "The storage");
  if (response.ok) return;
  const told = /<Message>([^<]*)/.exec(await response.text());
  throw new Problem({
    title: "The storage rejected the file",
    status: response.status,
    detail: told ? told[1] : `It answered ${response.status}.`,
  });
}

async function reach(url, request, who) {
  try {
    return await fetch(url, request);
  } catch {
    throw new Problem({ title: "No answer", status: 0, detail: `${who} could not be reached. Try again.` });
  }
}

async function problemOf(response) {
  const type = response.headers.get("content-type") || "";
  if (type.includes("json")) {
    const told = await response.json();
    // What stands in front of the API answers {"message": ...}.
    return new Problem({ title: "Rejected", status: response.status, detail: told.message || "", ...told });
  }
  return new Problem({ title: "Rejected", status: response.status, detail: `It answered ${response.status}.` });
}
