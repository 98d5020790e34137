"use strict";

const byId = (id) => document.getElementById(id);
const sides = [0, 1].map((number) => ({ number, messages: [], waits: null }));
let controller = null;

function headers() {
  const key = byId("key").value.trim();
  const kind = { "Content-Type": "application/json" };
  return key ? { ...kind, Authorization: `Bearer ${key}` } : kind;
}

async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

async function names(after, limit) {
  const query = new URLSearchParams({ after, limit });
  const response = await fetch(`v1/models?${query}`, { headers: headers() });
  if (!response.ok) throw new Error(await refusal(response));
  return (await response.json()).data.map((model) => model.id);
}

function offer(number, found) {
  byId(`names-${number}`).replaceChildren(...found.map((name) => new Option(name, name)));
}

async function connect() {
  try {
    const found = await names("", 100);
    byId("server").textContent = `${location.host} serves ${found[0]}`;
    for (const { number } of sides) {
      offer(number, found);
      const field = byId(`model-${number}`);
      if (!field.value) field.value = found[Math.min(number + 1, found.length - 1)];
    }
  } catch (error) {
    byId("server").textContent = `No connection: ${error.message}`;
  }
}

// With very many adapters the list has those that follow what is typed.
function typed(side) {
  clearTimeout(side.waits);
  side.waits = setTimeout(async () => {
    try {
      offer(side.number, await names(byId(`model-${side.number}`).value, 20));
    } catch { /* what is sent tells it */ }
  }, 200);
}

function turn(side, role, who) {
  const block = document.createElement("div");
  block.className = `turn ${role}`;
  const head = document.createElement("b");
  head.textContent = who;
  const text = document.createElement("span");
  block.append(head, text);
  byId(`talk-${side.number}`).append(block);
  return text;
}

function fail(side, message) {
  const place = byId(`error-${side.number}`);
  place.textContent = message;
  place.hidden = !message;
}

// The data of the events of a stream, one after the other.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

function wanted(side, prompt) {
  const body = {
    model: byId(`model-${side.number}`).value.trim(),
    stream: true,
    temperature: Number(byId("temperature").value),
  };
  const most = byId("length").valueAsNumber;
  if (most) body.max_tokens = most;
  if (byId("plain").checked) return ["v1/completions", { max_tokens: 128, ...body, prompt }];
  const messages = [...side.messages, { role: "user", content: prompt }];
  return ["v1/chat/completions", { ...body, messages }];
}

async function answer(side, prompt, signal) {
  fail(side, "");
  const state = byId(`state-${side.number}`), log = byId(`talk-${side.number}`);
  const [path, body] = wanted(side, prompt);
  turn(side, "user", "You").textContent = prompt;
  const place = turn(side, "assistant", body.model);
  state.textContent = "Answering…";
  let text = "", tokens = 0, isEnded = false, response;
  const begin = performance.now();
  try {
    response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
    if (!response.ok) {
      fail(side, await refusal(response));
      place.parentElement.remove();
      state.textContent = "";
      return;
    }
    for await (const data of events(response)) {
      if (data === "[DONE]") { isEnded = true; break; }
      const event = JSON.parse(data);
      if (event.error) { fail(side, event.error.message); isEnded = true; break; }
      for (const choice of event.choices) {
        text += choice.text ?? choice.delta?.content ?? "";
        tokens += 1;
      }
      place.textContent = text;
      log.scrollTop = log.scrollHeight;
    }
    if (!isEnded) fail(side, "The connection was lost before the answer ended.");
  } catch (error) {
    if (!signal.aborted) fail(side, `The connection was lost: ${error.message}`);
  }
  const seconds = (performance.now() - begin) / 1000;
  const how = signal.aborted ? "Stopped" : byId(`error-${side.number}`).hidden ? "Done" : "Ended";
  state.textContent = `${how} after ${seconds.toFixed(1)} s`;
  if (text) {
    side.messages.push({ role: "user", content: prompt }, { role: "assistant", content: text });
  } else {
    place.parentElement.remove();
  }
}

async function send(event) {
  event.preventDefault();
  const prompt = byId("prompt").value;
  if (!prompt.trim() || controller) return;
  controller = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  await Promise.all(sides.map((side) => answer(side, prompt, controller.signal)));
  controller = null;
  byId("send").disabled = false;
  byId("stop").disabled = true;
  byId("prompt").focus();
}

function reset() {
  controller?.abort();
  for (const side of sides) {
    side.messages = [];
    byId(`talk-${side.number}`).replaceChildren();
    byId(`state-${side.number}`).textContent = "";
    fail(side, "");
  }
}

byId("ask").addEventListener("submit", send);
byId("stop").addEventListener("click", () => controller?.abort());
byId("reset").addEventListener("click", reset);
byId("key").addEventListener("change", connect);
for (const side of sides) byId(`model-${side.number}`).addEventListener("input", () => typed(side));
connect();
