/* Follows the runs: asks whether something changed, and keeps what that costs within a bound. */
(function () {
  "use strict";

  // Milliseconds between two questions, and the most that lie between two of a page in view.
  const BEAT = 2000, MOST = 30000;
  // Of a core, for all tabs of this browser together; a training may need the rest.
  const SHARE = 0.01;
  // Longer than MOST: a tab that drew within it is one to share with.
  const HEARD = 70000;

  const page = { paused: false, lost: false, pulse: null, newest: undefined,
                 told: performance.now(), changed: performance.now(),
                 costs: [], next: null, asking: false, wanted: false };

  // Other tabs say when they draw, so that five of them cost what one does.
  const me = Math.random(), others = new Map();
  const channel = window.BroadcastChannel ? new BroadcastChannel("qprobe-follow") : null;
  if (channel) {
    channel.onmessage = function (said) { others.set(said.data, performance.now()); };
  }

  const config = JSON.parse(document.getElementById("_dash-config").textContent);
  const prefix = config.requests_pathname_prefix;

  // What one tab is told the others hear: while nothing changes, five ask as often as one.
  const answers = window.BroadcastChannel ? new BroadcastChannel("qprobe-answers" + prefix) : null;
  if (answers) answers.onmessage = function (heard) { overhear(heard.data); };

  function sharing() {
    const now = performance.now();
    others.forEach(function (heard, who) { if (now - heard > HEARD) others.delete(who); });
    return 1 + others.size;
  }

  /** Between drawings: as long as drawing takes, over the share of a core that it may have. */
  function pace() {
    const costs = page.costs.slice().sort(function (a, b) { return a - b; });
    const usual = costs.length ? costs[costs.length >> 1] : 0;
    const calm = document.hasFocus() ? 1 : 2;
    return Math.min(MOST, Math.max(BEAT, calm * usual * sharing() / SHARE));
  }

  /** After a minute in which nothing changed a fifth of the questions do. */
  function apart() {
    const quiet = 1 + Math.floor((performance.now() - page.changed) / 15000);
    return Math.max(pace(), BEAT * Math.min(5, quiet));
  }

  function ago(seconds) {
    const units = [["d", 86400, 1], ["h", 3600, 1], ["min", 60, 1], ["s", 1, 10]];
    const unit = units.find(function (one) { return seconds >= one[1] * one[2]; });
    if (!unit) return "just now";
    return unit[2] * Math.floor(seconds / unit[1] / unit[2]) + " " + unit[0] + " ago";
  }

  function words() {
    if (page.lost) return "no answer: the dashboard was stopped";
    if (page.newest === undefined) return "";
    if (page.newest === null) return "no runs yet";
    const since = (performance.now() - page.told) / 1000;
    const often = Math.round(pace() / 1000);
    const slow = !page.paused && often > BEAT / 1000 && performance.now() - page.changed < 60000;
    return "updated " + ago(page.newest + since) + (slow ? ", every " + often + " s" : "");
  }

  /** Writes only what reads differently: each writing makes the browser paint. */
  function tell() {
    const place = document.getElementById("freshness"), said = words();
    if (place && !document.hidden && place.textContent !== said) place.textContent = said;
  }

  function idle(act) {
    if (window.requestIdleCallback) requestIdleCallback(act);
    else setTimeout(act, 0);
  }

  /** Draws, and resolves with milliseconds from the server's answer until the page is idle. */
  function drawn(pulse) {
    return new Promise(function (done) {
      let first = Infinity;
      const givenUp = setTimeout(function () { end(0); }, 10000);
      function end(cost) {
        clearTimeout(givenUp);
        seen.disconnect();
        done(cost);
      }
      const seen = new PerformanceObserver(function (list) {
        list.getEntries().forEach(function (one) {
          if (one.name.includes("_dash-update-component")) {
            first = Math.min(first, one.responseEnd);
          }
        });
        if (first === Infinity) return;
        // The chart comes a moment after the answer, and its pixels a frame after that.
        idle(function () {
          requestAnimationFrame(function () {
            idle(function () { end(performance.now() - first); });
          });
        });
      });
      seen.observe({ type: "resource" });
      dash_clientside.set_props("pulse", { data: pulse });
    });
  }

  function beat(now) {
    return fetch(prefix + (now ? "beat?now" : "beat"), { cache: "no-store" })
      .then(function (answer) { return answer.json(); });
  }

  function note(now) {
    page.lost = false;
    page.newest = now.age_s;
    page.told = performance.now();
  }

  /** What changed a page asks for itself, when it may draw again. */
  function overhear(now) {
    if (page.paused || page.asking || document.hidden || now.pulse !== page.pulse) return;
    note(now);
    tell();
    later();
  }

  async function heard(now) {
    note(now);
    if (answers) answers.postMessage(now);
    const known = page.pulse;
    page.pulse = now.pulse;
    // The first answer is older than what the page shows.
    if (known === null || known === now.pulse) return;
    page.changed = performance.now();
    if (channel) channel.postMessage(me);
    const cost = await drawn(now.pulse);
    if (cost) page.costs = page.costs.concat(cost).slice(-3);
  }

  async function ask(now) {
    // Who wants an update while one is under way gets another one after it.
    page.wanted = page.asking && (page.wanted || now);
    if (page.asking) return;
    page.asking = true;
    clearTimeout(page.next);
    try {
      await heard(await beat(now));
    } catch (problem) {
      if (!(problem instanceof TypeError)) throw problem;
      page.lost = true;
    } finally {
      page.asking = false;
      tell();
      if (page.wanted) ask(true);
      else later();
    }
  }

  function later() {
    clearTimeout(page.next);
    if (page.paused || document.hidden) return;
    // Tabs that were opened together do not ask together.
    page.next = setTimeout(function () {
      if (!document.hidden) ask(false);
    }, apart() * (1 + Math.random() / 10));
  }

  // Who comes back to a tab sees what is, and not what was when it was left.
  document.addEventListener("visibilitychange", function () {
    if (!document.hidden && !page.paused) ask(false);
  });
  window.addEventListener("focus", function () { if (!page.asking) later(); });
  document.addEventListener("click", function (event) {
    if (event.target.closest("#refresh")) ask(true);
    if (!event.target.closest("#pause")) return;
    page.paused = !page.paused;
    const word = page.paused ? "go on" : "pause";
    dash_clientside.set_props("pause", { children: word });
    if (page.paused) clearTimeout(page.next);
    else ask(true);
  });
  setInterval(tell, 5000);
  ask(false);
})();
