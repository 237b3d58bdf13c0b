// Thermocline's page: a chat over /v1/chat/completions and the live state over /api/v1. Text of the model is only
// ever put in as text. No library, no other origin.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const messages = []; // the conversation as the API takes it
  let running = null;  // AbortController of the answer being received
  let model = "";

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const headers = () => {
    const key = $("key").value.trim();
    return { "Content-Type": "application/json", ...(key ? { Authorization: "Bearer " + key } : {}) };
  };

  const isAtEnd = () => $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 60;
  const toEnd = () => { $("log").scrollTop = $("log").scrollHeight; };

  function show(role, text) {
    $("hint")?.remove();
    const article = make("article", role);
    article.append(make("h3", "", role === "user" ? "You" : role === "tool" ? "Tool" : "Model"));
    const body = make("div", "text", text);
    article.append(body);
    $("log").append(article);
    toEnd();
    return { article, body };
  }

  // ---- one answer ----

  class Answer {
    constructor() {
      const { article, body } = show("assistant", "");
      this.article = article;
      this.body = body;
      this.content = "";
      this.reasoning = "";
      this.calls = [];
      this.finish = null;
      this.tokens = 0;
      this.began = 0;
      article.classList.add("busy");
    }

    think(text) {
      if (!this.thought) {
        const box = make("details", "reasoning");
        box.open = true;
        box.append(make("summary", "", "Reasoning"));
        this.thought = make("div", "text");
        box.append(this.thought);
        this.body.before(box);
        this.box = box;
      }
      this.reasoning += text;
      this.thought.textContent = this.reasoning;
    }

    write(text) {
      if (this.box && !this.content) this.box.open = false;
      this.content += text;
      this.body.textContent = this.content;
    }

    call(part) {
      let call = this.calls[part.index];
      if (!call) {
        call = this.calls[part.index] = { id: part.id, name: part.function.name, arguments: "" };
        const card = make("div", "call");
        card.append(make("strong", "", call.name));
        call.node = make("pre", "", "");
        call.card = card;
        card.append(call.node);
        this.article.append(card);
      }
      call.arguments += part.function.arguments || "";
      call.node.textContent = call.arguments;
    }

    take(chunk) {
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) this.tokens = chunk.usage.completion_tokens;
      const choice = chunk.choices?.[0];
      if (!choice) return;
      const delta = choice.delta || {};
      if (!this.began && (delta.content || delta.reasoning_content || delta.tool_calls)) this.began = performance.now();
      const follow = isAtEnd();
      if (delta.reasoning_content) this.think(delta.reasoning_content);
      if (delta.content) this.write(delta.content);
      for (const part of delta.tool_calls || []) this.call(part);
      if (choice.finish_reason) this.finish = choice.finish_reason;
      if (follow) toEnd();
    }

    end(note) {
      this.article.classList.remove("busy");
      for (const call of this.calls) {
        try { call.node.textContent = JSON.stringify(JSON.parse(call.arguments), null, 2); } catch { /* cut off: as it is */ }
      }
      if (this.finish === "length") note = note || "cut off at the most tokens";
      if (note) this.article.append(make("p", "note", note));
      const seconds = (performance.now() - this.began) / 1000;
      if (this.tokens && this.began) $("rate").textContent = this.tokens + " tokens, " + (this.tokens / seconds).toFixed(1) + " a second";
      const message = { role: "assistant", content: this.content };
      if (this.calls.length) message.tool_calls = this.calls.map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } }));
      if (this.content || this.calls.length) messages.push(message);
      for (const call of this.calls) this.askResult(call);
    }

    // What the tool answered is the reader's to type.
    askResult(call) {
      const form = make("form", "");
      const label = make("label", "note", "Result of " + call.name);
      const input = make("input");
      input.id = "result-" + call.id;
      label.htmlFor = input.id;
      form.append(label, input);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (running) return;
        messages.push({ role: "tool", tool_call_id: call.id, content: input.value });
        input.disabled = true;
        const left = [...document.querySelectorAll("form input[id^=result-]")].some((i) => !i.disabled);
        if (!left) receive();
      });
      call.card.append(form);
    }
  }

  async function readEvents(response, take) {
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const data = rest.slice(0, end).split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
        rest = rest.slice(end + 2);
        if (data && data !== "[DONE]") take(JSON.parse(data));
      }
    }
  }

  function requestBody() {
    const system = $("system").value.trim(), tools = $("tools").value.trim();
    const body = { model, messages: system ? [{ role: "system", content: system }, ...messages] : messages,
      stream: true, stream_options: { include_usage: true } };
    if ($("temperature").value !== "") body.temperature = Number($("temperature").value);
    if ($("max-tokens").value !== "") body.max_tokens = Number($("max-tokens").value);
    if (tools) body.tools = JSON.parse(tools);
    return JSON.stringify(body);
  }

  async function receive() {
    const answer = new Answer();
    let note = "";
    running = new AbortController();
    $("send").disabled = true;
    $("stop").disabled = false;
    try {
      const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: requestBody(), signal: running.signal });
      if (!response.ok) {
        const failure = await response.json().catch(() => null);
        throw new Error(failure?.error?.message || "the server answers " + response.status);
      }
      await readEvents(response, (chunk) => answer.take(chunk));
    } catch (error) {
      if (error.name === "AbortError") note = "stopped";
      else answer.article.append(make("p", "error", error.message));
    }
    running = null;
    $("send").disabled = false;
    $("stop").disabled = true;
    answer.end(note);
    $("prompt").focus();
  }

  const stop = () => running?.abort();

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("prompt").value.trim();
    if (!text || running) return;
    messages.push({ role: "user", content: text });
    show("user", text);
    $("prompt").value = "";
    receive();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("form").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => {
    stop();
    messages.length = 0;
    $("log").replaceChildren();
    $("rate").textContent = "";
    $("prompt").focus();
  });

  // ---- themes ----

  const themes = ["system", "light", "dark"];
  let theme = 0;
  function setTheme(index) {
    theme = index;
    if (theme === 0) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = themes[theme];
    $("theme").textContent = "Theme: " + themes[theme];
    try { localStorage.setItem("theme", themes[theme]); } catch { /* not kept */ }
  }
  try { setTheme(Math.max(0, themes.indexOf(localStorage.getItem("theme")))); } catch { setTheme(0); }
  $("theme").addEventListener("click", () => setTheme((theme + 1) % themes.length));

  // ---- live state ----

  let last = null;
  const rates = [];
  const number = (value) => value === undefined || value === null ? "–" : value.toLocaleString("en");

  function drawRates(rate) {
    rates.push(rate);
    if (rates.length > 120) rates.shift();
    const most = Math.max(1, ...rates);
    $("line").setAttribute("points", rates.map((r, i) => `${i + 120 - rates.length},${(28 - 26 * r / most).toFixed(1)}`).join(" "));
  }

  // A map of the layers where the server tells of each; each cell is cold colour with hot over it.
  function drawHeat(stats) {
    const layers = stats.per_layer || [];
    $("heat").replaceChildren(...layers.map((layer) => {
      const all = layer.hits + layer.misses, rate = all ? layer.hits / all : 0;
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      cell.setAttribute("viewBox", "0 0 10 10");
      cell.setAttribute("preserveAspectRatio", "none");
      for (const kind of ["cold", "hot"]) {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        rect.setAttribute("class", kind);
        rect.setAttribute("width", "10");
        rect.setAttribute("height", "10");
        if (kind === "hot") rect.setAttribute("opacity", rate.toFixed(3));
        cell.append(rect);
      }
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `layer ${layer.layer}: ${(100 * rate).toFixed(1)} %`;
      cell.append(title);
      return cell;
    }));
    $("heat-text").textContent = layers.length ? `${layers.length} layers, first to last` : "No experts are kept hot, so there is no map of layers.";
    $("hit").textContent = stats.hit_rate === null ? "–" : (100 * stats.hit_rate).toFixed(1) + " %";
  }

  function drawWorkers(workers) {
    const all = Math.max(workers.expected, workers.up);
    $("workers").replaceChildren(...Array.from({ length: all }, (_, i) => make("span", i < workers.up ? "worker" : "worker down")));
    $("workers-text").textContent = `${workers.up} of ${workers.expected} up`;
  }

  function drawState(health) {
    $("dot").className = health.ready ? "good" : "bad";
    $("state-text").textContent = health.ready ? "ready" : health.reason || health.status;
    $("running").textContent = number(health.running);
    $("waiting").textContent = number(health.waiting);
    drawWorkers(health.workers);
  }

  function drawNumbers(info, memory) {
    const now = performance.now(), s = info.statistics;
    model = info.model;
    $("model").textContent = `${info.model}: ${info.layers} layers, ${info.experts} experts, ${info.device}`;
    if (s && last) {
      const seconds = (now - last.at) / 1000, rate = Math.max(0, (s.tokens_generated - last.generated) / seconds);
      $("tokens").textContent = rate.toFixed(1);
      $("prefill").textContent = Math.max(0, (s.prompt_tokens - last.prompt) / seconds).toFixed(1);
      drawRates(rate);
    }
    if (s) {
      $("generated").textContent = number(s.tokens_generated);
      last = { at: now, generated: s.tokens_generated, prompt: s.prompt_tokens };
    }
    const pages = memory.kv_pages, used = pages.total - pages.free;
    $("kv").value = pages.total ? used / pages.total : 0;
    $("kv-text").textContent = pages.total ? `${number(used)} of ${number(pages.total)} pages, ${number(Math.round(memory.kv_budget_bytes / 1048576))} MiB in all`
      : `${number(Math.round(memory.kv_budget_bytes / 1048576))} MiB in all; the core does not count pages`;
  }

  const get = async (path) => {
    const response = await fetch(path, { headers: headers(), cache: "no-store" });
    return { ok: response.ok, body: await response.json() };
  };

  async function refresh() {
    try {
      drawState((await get("/api/v1/health")).body);
      const [info, memory, stats] = await Promise.all(["/api/v1/model-info", "/api/v1/memory", "/api/v1/expert-stats"].map(get));
      if (info.ok && memory.ok) drawNumbers(info.body, memory.body);
      if (stats.ok) drawHeat(stats.body);
    } catch {
      $("dot").className = "bad";
      $("state-text").textContent = "no connection to the server";
    }
    setTimeout(refresh, document.hidden ? 5000 : 1000);
  }
  refresh();
  $("prompt").focus();
})();
