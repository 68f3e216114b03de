// Draws the charts, shows the values of the mark under the pointer or the keyboard's, zooms, and sorts tables.
(() => {
  'use strict';
  const tip = document.getElementById('tip'), live = document.getElementById('live');
  const source = document.getElementById('kdsearch-charts');
  const charts = source ? JSON.parse(source.textContent) : { specs: [] };
  const nowhere = { load: () => Promise.reject(new Error('no request')), sanitize: () => Promise.reject(new Error('no link')) };

  const lines = value => typeof value === 'object' && value !== null
    ? Object.entries(value).filter(([, v]) => !['', 'null', 'undefined', 'NaN'].includes(String(v)))
        .map(([k, v]) => k.trim() ? `${k}: ${v}` : String(v))
    : [String(value)];

  function show(box, value) {
    tip.hidden = value === null || value === undefined || value === '';
    if (tip.hidden) return;
    tip.textContent = lines(value).join('\n');
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(innerWidth - w - 4, box.left + box.width / 2 - w / 2)) + 'px';
    tip.style.top = (box.top - h - 8 < 4 ? box.bottom + 8 : box.top - h - 8) + 'px';
  }

  const button = (text, label, act) => {
    const made = document.createElement('button');
    made.type = 'button'; made.textContent = text; made.title = label;
    made.setAttribute('aria-label', label);
    made.addEventListener('click', act);
    return made;
  };

  // the scales that a selection is bound to are signals zoom..._x and zoom..._y; null = the whole range
  function zoom(view, factor) {
    for (const name of Object.keys(view.getState({ signals: n => /^zoom.*_[xy]$/.test(n || ''), data: () => false }).signals)) {
      const scale = view.scale(name.endsWith('_x') ? 'x' : 'y'), range = scale.range();
      const middle = (range[0] + range[1]) / 2, half = (range[1] - range[0]) / 2 * factor;
      view.signal(name, factor ? [scale.invert(middle - half), scale.invert(middle + half)] : null);
    }
    view.runAsync();
  }

  // arrows step from mark to mark, left to right
  function keyboard(view, box) {
    const marks = () => [...box.querySelectorAll('[aria-roledescription]')]
      .filter(m => m.__data__ && m.__data__.tooltip)
      .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
    let at = -1, all = [];
    const leave = () => { all.forEach(m => m.classList.remove('here')); show(null, null); };
    box.tabIndex = 0;
    box.addEventListener('focus', () => { all = marks(); at = -1; });
    box.addEventListener('blur', leave);
    box.addEventListener('keydown', e => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
      if (step && all.length) {
        leave();
        at = at < 0 && step < 0 ? all.length - 1 : (at + step + all.length) % all.length;
        const mark = all[at], value = mark.__data__.tooltip;
        mark.classList.add('here');
        show(mark.getBoundingClientRect(), value);
        live.textContent = lines(value).join(', ');
      } else if (e.key === '+' || e.key === '=') zoom(view, 0.7);
      else if (e.key === '-') zoom(view, 1 / 0.7);
      else if (e.key === 'Escape' || e.key === '0') { leave(); zoom(view, 0); }
      else return;
      e.preventDefault();
    });
  }

  async function draw(box, spec) {
    const compiled = vegaLite.compile(spec, { config: charts.config, logger: vega.logger(vega.Error) }).spec;
    compiled.description = `${spec.description || ''} Arrow keys step through the marks.`;
    const view = new vega.View(vega.parse(compiled, null, { ast: true }), {
      renderer: 'svg', container: box, hover: true, loader: nowhere, logLevel: vega.Error,
      expr: vegaInterpreter.expressionInterpreter,
    });
    view.tooltip((handler, event, item, value) => show(event.target.getBoundingClientRect(), value));
    await view.runAsync();
    keyboard(view, box);
    const tools = document.createElement('div');
    tools.className = 'tools';
    if (compiled.signals && compiled.signals.some(each => /^zoom/.test(each.name))) {
      tools.append(button('+', 'zoom in', () => zoom(view, 0.7)), button('\u2212', 'zoom out', () => zoom(view, 1 / 0.7)),
        button('reset', 'show everything', () => zoom(view, 0)));
    }
    box.after(tools);
  }

  const number = text => {
    const found = text.replace(/,/g, '').match(/^[+\-\u2212]?[\d.]+(e[+\-]?\d+)?/);
    return found ? parseFloat(found[0].replace('\u2212', '-')) : null;
  };
  const key = cell => {
    const exact = cell && cell.querySelector('[data-v]'), text = cell ? cell.textContent.trim() : '';
    return exact ? +exact.dataset.v : number(text) ?? text;
  };
  document.addEventListener('click', e => {
    const head = e.target.closest && e.target.closest('th[scope=col]');
    if (!head || !head.querySelector('button')) return;
    const body = head.closest('table').tBodies[0], at = head.cellIndex;
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const sign = down ? -1 : 1;
    const rank = v => typeof v === 'number' ? 0 : v && v !== '\u2013' ? 1 : 2;
    const order = (a, b) => rank(a) - rank(b) || sign * (typeof a === 'number' ? a - b : a < b ? -1 : a > b ? 1 : 0);
    body.append(...[...body.rows].map(row => [key(row.cells[at]), row]).sort((a, b) => order(a[0], b[0])).map(each => each[1]));
  });

  (async () => {
    for (const box of document.querySelectorAll('[data-chart]')) {
      try { await draw(box, charts.specs[+box.dataset.chart]); }
      catch (error) { box.className = 'none'; box.textContent = `This chart could not be drawn (${error.message}); its data stand below.`; }
    }
    // alone in a notebook's frame: as high as it is
    const fit = () => { if (document.querySelector('.alone') && window.frameElement) frameElement.style.height = document.documentElement.scrollHeight + 'px'; };
    for (const each of document.querySelectorAll('.alone details')) each.addEventListener('toggle', fit);
    fit();
    document.body.dataset.drawn = document.querySelectorAll('[data-chart] svg').length;
  })();
})();
