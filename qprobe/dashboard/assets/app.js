/* What the pages do without asking the server: addresses, exports, keys, cells of grids. */
(function () {
  "use strict";

  // What the tab is called without a page, and whether another page is on its way.
  const name = document.title;
  let leaving = false;

  function go(url) {
    leaving = new URL(url, location.href).pathname !== location.pathname;
    history.pushState({}, "", url);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  }

  function withValue(name, value) {
    const query = new URLSearchParams(location.search);
    query.delete(name);
    (Array.isArray(value) ? value : [value]).forEach(function (one) {
      if (one !== null && one !== undefined && one !== "") query.append(name, one);
    });
    const text = query.toString();
    return location.pathname + (text ? "?" + text : "");
  }

  let watched = null;

  function idle(act, after) {
    // A page that is never idle has to get its tables too, and not every browser can tell.
    const wait = window.requestIdleCallback || function (act) { setTimeout(act, 0); };
    setTimeout(function () { wait(act, { timeout: 500 }); }, after);
  }

  function look() {
    return document.documentElement.getAttribute("data-mantine-color-scheme");
  }

  function opener(name) {
    return function (value, chosen) {
      // Also called when the server fills in what is shown anyway.
      if ((value || null) === ((chosen || {})[name] || null)) return;
      // A layer of one run need not be in another, but where it is, the view stays.
      go(withValue(name, value));
    };
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    qprobe: {
      remember: function () {
        const inputs = dash_clientside.callback_context.inputs_list[0] || [];
        let url = null;
        inputs.forEach(function (input) {
          url = withValue(input.id.control, input.value);
          // Not pushed: every keystroke would be a step of the back button.
          history.replaceState(history.state, "", url);
        });
      },
      open_run: opener("run"),
      open_baseline: opener("baseline"),
      open_layer: function (click, links) {
        const point = click && click.points && click.points[0];
        if (!point || !links) return;
        const site = links.sites[point.y + "\n" + point.x] || links.sites[point.x];
        if (site) go(links.to + "&layer=" + encodeURIComponent(site));
      },
      look: function () {
        // The toggle knows what was chosen, the page what it looks like: the system may decide.
        if (!watched) {
          watched = new MutationObserver(function () {
            dash_clientside.set_props("look", { data: look() });
          });
          watched.observe(document.documentElement, {
            attributes: true, attributeFilter: ["data-mantine-color-scheme"],
          });
        }
        return look();
      },
      ask: function (path, search) {
        return { path: path || "/", search: search || "", look: look() };
      },
      again: function () {
        // A page that had nothing to show has no charts that follow the file: it is asked for anew.
        if (!document.querySelector("#page > .empty, #page > div > .empty")) return;
        const asked = this.ask(location.pathname, location.search);
        dash_clientside.set_props("asked", { data: asked });
      },
      later: function (name) {
        // What is below the fold is built when it comes near, or when there is nothing else to do.
        return new Promise(function (tell) {
          const seen = new IntersectionObserver(function (found) {
            if (found.some(function (one) { return one.isIntersecting; })) done();
          }, { rootMargin: "200px" });
          function done() {
            seen.disconnect();
            idle(function () { tell(true); }, 0);
          }
          // Called while the page is still being put together.
          idle(function () {
            const slot = document.getElementById(name);
            if (slot) seen.observe(slot);
          }, 0);
          idle(done, 1500);
        });
      },
      arrived: function (content, chosen) {
        // Called before the page is there to be read.
        setTimeout(function () {
          const page = document.getElementById("page");
          const what = page.querySelector(".page-title code") || page.querySelector("h1");
          const words = [what && what.textContent, chosen && chosen.run, name];
          document.title = words.filter(Boolean).map(function (word) {
            return word.length > 60 ? word.slice(0, 59) + "…" : word;
          }).join(" · ");
          // From its top, and with the keyboard in it; the way back leads to where one was.
          if (leaving) {
            window.scrollTo(0, 0);
            page.focus({ preventScroll: true });
          }
          leaving = false;
        }, 0);
      },
      toggle: function (clicks, opened) {
        return !opened;
      },
      navbar: function (opened, navbar) {
        return Object.assign({}, navbar, { collapsed: { mobile: !opened } });
      },
    },
  });

  /* Exports: of exactly what a chart shows. */

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  }

  function cell(value) {
    let text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet would run a name that begins like a formula.
    if (/^[=+@\t\r-]/.test(text) && isNaN(Number(text))) text = "'" + text;
    return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }

  function plain(text) {
    const holder = document.createElement("textarea");
    holder.innerHTML = text;
    return holder.value;
  }

  function table(traces) {
    const rows = [["series", "x", "y", "z"]];
    traces.forEach(function (trace) {
      if (trace.visible === false || trace.visible === "legendonly") return;
      if (trace.mode === "text") return;  // what is written on the cells of a map
      const x = trace.x || [], y = trace.y || [], name = plain(trace.name || "");
      if (trace.z) {
        Array.from(trace.z).forEach(function (line, i) {
          Array.from(line).forEach(function (z, j) {
            rows.push([name, plainOf(x[j], j), plainOf(y[i], i), z]);
          });
        });
      } else {
        for (let i = 0; i < Math.max(x.length, y.length); i++) {
          rows.push([name, plainOf(x[i], i), plainOf(y[i], i), ""]);
        }
      }
    });
    return rows.map(function (row) { return row.map(cell).join(","); }).join("\r\n") + "\r\n";
  }

  function plainOf(value, place) {
    if (value === undefined) return place;
    return typeof value === "string" ? plain(value) : value;
  }

  document.addEventListener("click", function (event) {
    const button = event.target.closest(
      "button[data-export], button[data-grid], button[data-save]");
    if (!button) return;
    if (button.dataset.save) {
      save(button.dataset.name, document.getElementById(button.dataset.save).textContent + "\n");
      return;
    }
    if (button.dataset.grid) {
      dash_ag_grid.getApi(button.dataset.grid).exportDataAsCsv();
      return;
    }
    const holder = document.getElementById(button.dataset.chart);
    const chart = holder && holder.querySelector(".js-plotly-plot");
    if (!chart) return;
    const name = button.dataset.chart;
    if (button.dataset.export === "csv") {
      save(name + ".csv", table(chart._fullData));
    } else {
      Plotly.downloadImage(chart, {
        format: button.dataset.export, filename: name, scale: 2,
        width: chart.clientWidth, height: chart.clientHeight,
      });
    }
  });

  /* Keys. */

  function follow(selectors) {
    const link = selectors.map(function (one) { return document.querySelector(one); })
      .find(function (found) { return found; });
    if (link) link.click();
  }

  document.addEventListener("keydown", function (event) {
    const writing = event.target.closest("input, textarea, select, [contenteditable=true]");
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      "/": function () {
        const field = document.querySelector("[data-filter] input, input[data-filter]");
        if (field) field.focus();
      },
      j: function () { follow(["a[data-failing=next]", "a[data-failing=true]"]); },
      k: function () { follow(["a[data-failing=previous]"]); },
      "[": function () { follow(["a[data-run=previous]"]); },
      "]": function () { follow(["a[data-run=next]"]); },
      d: function () { document.getElementById("scheme").click(); },
      r: function () { document.getElementById("refresh").click(); },
      "?": function () { document.getElementById("keys").click(); },
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  /* Cells of grids. */

  const cells = (window.dashAgGridComponentFunctions =
    window.dashAgGridComponentFunctions || {});
  cells.Link = function (props) {
    const href = props.data[props.colDef.field + "_href"];
    if (!href) return props.value;
    return React.createElement("a", {
      href: href,
      onClick: function (event) {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go(href);
      },
    }, props.value);
  };

  // Cividis at nine places, dark to bright: bright is worst. Ink is chosen for contrast.
  const HEAT = ["#00224e", "#083370", "#35456c", "#4f576c", "#666970",
                "#7d7c78", "#a69d75", "#c8b866", "#fee838"];
  const functions = (window.dashAgGridFunctions = window.dashAgGridFunctions || {});
  functions.heat = function (params) {
    const share = params.data && params.data["r" + params.colDef.field.slice(1)];
    if (share === null || share === undefined) return null;
    const place = Math.round(share * 8);
    return { backgroundColor: HEAT[place], color: place >= 5 ? "#000000" : "#ffffff" };
  };
  functions.measured = function (params) {
    const told = params.data && params.data["t" + params.colDef.field.slice(1)];
    if (told) return told;
    if (params.value === null || params.value === undefined) return "–";
    return Number(params.value.toPrecision(4)).toString();
  };

  document.addEventListener("click", function (event) {
    const link = event.target.closest("a[data-go]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    // Another run of the same view: what was chosen since the link was made is kept.
    go(link.dataset.name ? withValue("run", link.dataset.name) : link.getAttribute("href"));
  });
})();
