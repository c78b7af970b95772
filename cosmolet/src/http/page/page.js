// The status page. What it knows comes from /api/v1 of the daemon that served it, and goes into the page as text, never as
// markup: names are chosen by whoever may make a Service.
'use strict';

const POLL = 1000; // ms between two readings of what has changed
const KEPT = 120; // samples of a VIP's traffic that are kept for its picture
const DECISIONS = 100;
const AROUND = 8; // rows that are drawn beyond the edges of the table

const at = (id) => document.getElementById(id);
const known = new Map(); // VIP -> what is known of it
const view = { after: 0, started: 0, order: [], key: 'vip', down: false, states: new Set(), words: '', chosen: null, focused: null };

/** An element with attributes and children; texts become text nodes. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text only where it differs, so that a reader's selection and a screen reader are left in peace. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function ago(seconds) {
  const [unit, size] = [['d', 86400], ['h', 3600], ['m', 60]].find(([, size]) => seconds >= size) ?? ['s', 1];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
}

/** Sorts addresses as numbers, IPv4 first. */
function addressKey(text) {
  if (!text.includes(':')) return '4' + text.split('.').map((octet) => octet.padStart(3, '0')).join('');
  const [head, tail = ''] = text.split('::');
  const groups = (part) => part.split(':').filter(Boolean);
  const missing = 8 - groups(head).length - groups(tail).length;
  const all = [...groups(head), ...Array(Math.max(0, missing)).fill('0'), ...groups(tail)];
  return '6' + all.map((group) => group.padStart(4, '0')).join('');
}

function mood(state) {
  if (state === 'advertised') return 'good';
  return ['withdrawn', 'refused'].includes(state) ? 'bad' : 'wait';
}

// ── what is known ──

async function get(path) {
  const reply = await fetch(path, { signal: AbortSignal.timeout(10000), cache: 'no-store' });
  if (!reply.ok) throw new Error(`${path}: ${reply.status} ${await reply.text()}`);
  return reply.json();
}

/** Takes an answer of /api/v1/vips. Returns false if all of it has to be read again. */
function learn(answer) {
  if (view.started !== answer.started) {
    known.clear();
    const partial = view.after !== 0;
    Object.assign(view, { started: answer.started, after: 0 });
    if (partial) return false;
  }
  if (view.after === 0) {
    const there = new Set(answer.vips.map((brief) => brief.vip));
    for (const vip of [...known.keys()]) if (!there.has(vip)) known.delete(vip);
  }
  const now = performance.now();
  for (const brief of answer.vips) {
    const old = known.get(brief.vip);
    const row = old ?? { key: addressKey(brief.vip), samples: [], rates: { handshakes: 0, refusals: 0 } };
    row.fresh = old && old.state !== brief.state;
    Object.assign(row, brief);
    row.service = brief.services.map((claim) => claim.service).join(' ');
    row.words = `${brief.vip} ${brief.state} ${row.service} ${brief.reason ?? ''} ${brief.services.map((claim) => claim.verdict).join(' ')}`.toLowerCase();
    known.set(brief.vip, row);
  }
  for (const row of known.values()) sample(row, now);
  // Who knows more than there is has missed that one went.
  view.after = known.size === answer.count ? answer.revision : 0;
  return view.after !== 0 || known.size === 0;
}

/** Counters become rates. The daemon reads its counters once a second, so that two readings in between say nothing new. */
function sample(row, now) {
  const last = row.samples.at(-1);
  const changed = !last || last.handshakes !== row.handshakes || last.refusals !== row.refusals;
  const idle = !last || (last.rates.handshakes === 0 && last.rates.refusals === 0);
  if (!changed && (idle || now - last.at < 2500)) return;
  const seconds = idle ? 1 : Math.max(0.2, (now - last.at) / 1000);
  const rate = (kind) => (last ? Math.max(0, row[kind] - last[kind]) / seconds : 0);
  row.rates = { handshakes: rate('handshakes'), refusals: rate('refusals') };
  row.samples.push({ at: now, handshakes: row.handshakes, refusals: row.refusals, rates: row.rates });
  if (row.samples.length > KEPT) row.samples.shift();
}

// ── the table ──

function arrange() {
  const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = new Map();
  const rows = [];
  for (const row of known.values()) {
    if (!words.every((word) => row.words.includes(word))) continue;
    counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
    if (view.states.size === 0 || view.states.has(row.state)) rows.push(row);
  }
  const value = {
    vip: (row) => row.key,
    state: (row) => `${row.state} ${row.reason ?? ''}`,
    since: (row) => -row.since,
    service: (row) => row.service,
    handshakes: (row) => row.rates.handshakes,
    refusals: (row) => row.rates.refusals,
  }[view.key];
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const way = view.down ? -1 : 1;
  rows.sort((a, b) => way * order(value(a), value(b)) || order(a.key, b.key));
  view.order = rows;
  tellStates(counts);
  say(at('list-title'), rows.length === known.size ? `${known.size} VIPs` : `${rows.length} of ${known.size} VIPs`);
  say(at('found'), words.length || view.states.size ? `${rows.length} VIPs found` : '');
  at('none').hidden = rows.length > 0;
  say(at('none'), known.size ? 'No VIP fits the search.' : 'No VIP yet: no selected Service has an address.');
}

function tellStates(counts) {
  const box = at('states');
  for (const state of [...view.states].filter((state) => !counts.has(state))) counts.set(state, 0);
  const states = [...counts.keys()].sort();
  if (states.join() !== [...box.children].map((button) => button.dataset.state).join()) {
    const had = document.activeElement?.dataset?.state;
    box.replaceChildren(...states.map((state) => {
      const button = make('button', { type: 'button', 'data-state': state });
      button.addEventListener('click', () => {
        if (!view.states.delete(state)) view.states.add(state);
        redraw();
      });
      return button;
    }));
    [...box.children].find((button) => button.dataset.state === had)?.focus();
  }
  for (const button of box.children) {
    const state = button.dataset.state;
    say(button, `${state} ${counts.get(state)}`);
    button.setAttribute('aria-pressed', view.states.has(state));
    button.className = mood(state);
  }
}

const drawn = new Map(); // VIP -> its <tr>, of those in sight
const rowHeight = () => 2.25 * parseFloat(getComputedStyle(document.documentElement).fontSize);

/** Draws the rows in sight, with gaps for all the others: ten thousand cost what thirty do. */
function draw() {
  const [scroller, body, height] = [at('scroller'), at('vips').tBodies[0], rowHeight()];
  const first = Math.max(0, Math.floor(scroller.scrollTop / height) - AROUND);
  const last = Math.min(view.order.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + AROUND);
  const rows = view.order.slice(first, last);
  const wanted = new Set(rows.map((row) => row.vip));
  const focused = document.activeElement?.closest?.('#vips tbody tr')?.dataset.vip;
  for (const vip of [...drawn.keys()]) if (!wanted.has(vip)) drawn.delete(vip);
  const lines = rows.map((row, index) => {
    const line = drawn.get(row.vip) ?? blank(row.vip);
    drawn.set(row.vip, line);
    fill(line, row);
    line.setAttribute('aria-rowindex', first + index + 2);
    return line;
  });
  const gap = (count) => {
    const line = make('tr', { class: 'gap', 'aria-hidden': 'true' }, make('td'));
    line.firstChild.style.height = `${count * height}px`;
    return line;
  };
  const shown = [...body.children].filter((line) => line.dataset.vip);
  if (shown.length !== lines.length || shown.some((line, index) => line !== lines[index]) || view.gap !== first) {
    body.replaceChildren(gap(first), ...lines, gap(view.order.length - last));
    view.gap = first;
    // A row that is out of sight leaves the focus to the table, from where the keys go on.
    if (focused) (drawn.get(focused)?.querySelector('a') ?? scroller).focus({ preventScroll: true });
  } else if (body.lastChild) {
    body.lastChild.firstChild.style.height = `${(view.order.length - last) * height}px`;
  }
  at('vips').setAttribute('aria-rowcount', view.order.length + 1);
}

function blank(vip) {
  const cells = ['', '', 'wide', '', 'number wide', 'number wide'].map((kind) => make('td', { class: kind || null }));
  cells[0].append(make('a', { href: `#${vip}` }, vip));
  return make('tr', { 'data-vip': vip }, ...cells);
}

function fill(line, row) {
  const [, state, since, service, handshakes, refusals] = line.cells;
  say(state, row.reason ? `${row.state}: ${row.reason}` : row.state);
  state.className = mood(row.state) + (row.fresh ? ' fresh' : '');
  state.title = state.textContent;
  say(since, ago(Date.now() / 1000 - row.since));
  const doubts = row.services.map((claim) => claim.verdict).filter((verdict) => ['suspect', 'convicted', 'trial'].includes(verdict));
  say(service, row.service + (doubts.length ? ` (${doubts.join(', ')})` : ''));
  service.title = service.textContent;
  const rate = (value) => (value === 0 ? '' : value < 10 ? value.toFixed(1) : Math.round(value).toString());
  say(handshakes, rate(row.rates.handshakes));
  say(refusals, rate(row.rates.refusals));
  line.classList.toggle('chosen', row.vip === view.chosen);
}

function redraw() {
  arrange();
  draw();
}

// ── the node ──

function tellNode(node) {
  say(at('node'), node.node);
  document.title = `${node.node} · cosmolet`;
  const peers = node.bgp.peers.filter((peer) => peer.established).length;
  const watched = node.bgp.peers.filter((peer) => peer.bfd).length;
  const alive = node.bgp.peers.filter((peer) => peer.bfd === 'up').length;
  const modes = [node.bgp.ipv4_mode && `IPv4 ${node.bgp.ipv4_mode}`, node.bgp.ipv6_mode && `IPv6 ${node.bgp.ipv6_mode}`];
  const facts = [
    ['FRR', node.bgp.state === 'up' ? `AS ${node.bgp.asn}, ${modes.filter(Boolean).join(', ')}` : node.bgp.state],
    ['Peers', node.bgp.state === 'up' ? `${peers} of ${node.bgp.peers.length} established${watched ? `, BFD up with ${alive} of ${watched}` : ''}` : '–'],
    ['Services', `${node.services} from ${node.source.kind}, ${node.source.state}`],
    ['Traffic verdict', node.traffic.mode],
    ['Counted on', node.traffic.interfaces.join(', ') || 'nothing'],
    ['Probes', node.traffic.probes],
    ['Up for', ago(node.uptime_seconds)],
    ['Version', node.version],
  ];
  const list = at('summary');
  if (list.children.length !== facts.length) {
    list.replaceChildren(...facts.map(([name]) => make('div', {}, make('dt', {}, name), make('dd'))));
  }
  facts.forEach(([, value], index) => say(list.children[index].lastChild, value));
  const shown = [
    ...(node.drained ? ['This node is drained: cosmolet undrain takes it back.'] : []),
    ...(node.node_out ? [`${node.node_out}: no VIP is advertised from here while the Node object says so.`] : []),
    ...node.troubles,
  ];
  const box = at('troubles');
  if (shown.join('\n') !== [...box.children].map((item) => item.textContent).join('\n')) {
    box.replaceChildren(...shown.map((text) => make('li', {}, text)));
  }
}

// ── one VIP ──

async function tellStory() {
  const vip = view.chosen;
  if (!vip) return;
  let story;
  try {
    story = await get(`api/v1/explain/${encodeURIComponent(vip)}`);
  } catch (error) {
    story = { error: error.message };
  }
  const box = at('story');
  const selection = getSelection();
  const selecting = !box.hidden && !selection.isCollapsed && box.contains(selection.anchorNode);
  // Whoever selects a reason wants to copy it: the next reading comes in a second.
  if (vip !== view.chosen || (selecting && box.dataset.vip === vip)) return;
  box.dataset.vip = vip;
  const close = make('button', { type: 'button' }, 'Close');
  close.addEventListener('click', leave);
  const hadFocus = box.contains(document.activeElement) && document.activeElement !== box;
  const title = make('div', { class: 'top' }, make('h2', { id: 'story-title' }, vip), close);
  box.replaceChildren(title, ...(story.error ? [make('p', { class: 'bad' }, story.error)] : chapters(story)));
  box.hidden = false;
  if (hadFocus) close.focus();
}

function pairs(list) {
  const told = list.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return make('dl', { class: 'pairs' }, ...told.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
}

function chapters({ status, services, would_change, transitions, inputs }) {
  const seconds = (value) => (value === null || value === undefined ? null : `${value.toFixed(0)} s`);
  const rib = status.rib && (status.rib.valid ? `valid${status.rib.best ? ', best' : ''}, advertised to ${status.rib.peers.join(', ') || 'nobody'}` : 'no valid path');
  const there = pairs([
    ['for', ago(status.since_seconds)],
    ['loopback', `${status.loopback ?? 'not there'}${status.lease_left_seconds === null ? '' : `, lease for ${seconds(status.lease_left_seconds)} more`}`],
    ['network', status.mode === 'connected' ? 'none: connected routes are redistributed' : status.network ?? 'not there'],
    ['RIB', rib ?? 'not read yet'],
    ['in the RIB since', status.rib?.since && new Date(status.rib.since * 1000).toLocaleString()],
    ['attributes', status.attributes && `${status.attributes.wanted}${status.attributes.set ? '' : ' (not set)'}`],
    ['last error', status.last_error],
    ['not withdrawn', status.ejection_refused?.explanation],
  ]);
  return [
    make('p', {}, make('strong', { class: mood(status.state) }, status.state), status.reason ? ` ${status.reason}: ${status.explanation}` : ''),
    picture(status.vip),
    make('h3', {}, 'What FRR and the kernel hold'), there,
    ...services.flatMap(claim),
    make('h3', {}, 'What would change it'), make('ul', {}, ...would_change.map((text) => make('li', {}, text))),
    make('h3', {}, 'Last decisions'),
    transitions.length ? make('ol', {}, ...transitions.slice(-8).reverse().map(decision)) : make('p', {}, 'none remembered'),
    make('h3', {}, 'Heard from'),
    make('p', { class: 'faint' }, inputs.map((one) => `${one.input} ${one.error ?? one.state}${one.age_seconds === null ? '' : `, ${ago(one.age_seconds)} ago`}`).join(' · ')),
  ].filter(Boolean);
}

function claim(service) {
  const many = (rows) => rows && `${rows.ready} ready, ${rows.draining} draining, ${rows.unusable} unusable`;
  const { traffic, check } = service;
  return [
    make('h3', {}, `Service ${service.service}: ${service.health}`),
    pairs([
      ['control plane', service.control_plane ?? 'it can be served'],
      ['endpoints here', many(service.local)],
      ['elsewhere', service.scope === 'Local' ? null : many(service.remote)],
      ['traffic', `${traffic.verdict}: ${traffic.explanation}`],
      ['last probe', traffic.last_probe && `${traffic.last_probe}, ${ago(traffic.last_probe_age_seconds ?? 0)} ago`],
      ['owner’s probe', check && `${check.asks}: ${answer(check)}${check.failures ? `, ${check.failures} in a row` : ''}`],
      ['held back by', traffic.guards.map((guard) => guard.explanation).join('; ')],
      ...service.ports.filter((port) => port.evidence).map((port) => [
        port.port,
        `score ${port.evidence.score.toFixed(1)} of ${port.evidence.threshold}, answers ${port.evidence.sight}`,
      ]),
    ]),
  ];
}

function answer(check) {
  if (check.complaint) return check.complaint;
  if (check.passed_age_seconds === null) return 'not answered yet';
  return check.failures ? 'does not take connections' : 'answered well';
}

/** Handshakes and refusals a second, over the last two minutes that this page has seen. */
function picture(vip) {
  const row = known.get(vip);
  if (!row || row.samples.length < 2) return make('p', { class: 'faint' }, 'No traffic since this page was opened.');
  const now = performance.now();
  const span = KEPT * POLL;
  const most = Math.max(1, ...row.samples.flatMap(({ rates }) => [rates.handshakes, rates.refusals]));
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 240 60');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  const text = `${row.rates.handshakes.toFixed(1)} handshakes/s (line), ${row.rates.refusals.toFixed(1)} refused/s (dashed), at most ${most.toFixed(1)}/s in 2 minutes`;
  svg.setAttribute('aria-label', text);
  for (const kind of ['handshakes', 'refusals']) {
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
    const point = (moment, value) => `${(240 * (1 - (now - moment) / span)).toFixed(1)},${(58 - 56 * value / most).toFixed(1)}`;
    const seen = row.samples.filter((one) => now - one.at < span);
    const ends = seen.map((one, index) => seen[index + 1]?.at ?? now);
    // Each rate holds from its reading to the next: an idle VIP has few of them.
    line.setAttribute('points', seen.flatMap((one, index) => [point(one.at, one.rates[kind]), point(ends[index], one.rates[kind])]).join(' '));
    line.setAttribute('class', kind);
    svg.append(line);
  }
  return make('figure', { class: 'picture' }, svg, make('figcaption', { class: 'hint' }, text));
}

function choose(vip) {
  view.chosen = vip;
  at('story').hidden = !view.chosen;
  draw();
  return tellStory();
}

function leave() {
  const vip = view.chosen;
  history.replaceState(null, '', location.pathname + location.search);
  choose(null);
  drawn.get(vip)?.querySelector('a').focus();
}

// ── decisions as they happen ──

function decision(row) {
  const time = new Date(row.at * 1000);
  const why = row.reason ? ` ${row.reason}: ${row.message}` : '';
  return make('li', {}, make('time', { datetime: time.toISOString() }, time.toLocaleTimeString()), `${row.vip} `, make('strong', {}, row.to), why);
}

function follow() {
  const source = new EventSource('api/v1/transitions/stream?last=50');
  let timer = null;
  const soon = () => { timer ??= setTimeout(() => { timer = null; poll(); }, 50); };
  source.addEventListener('open', () => at('decisions').replaceChildren());
  source.addEventListener('transition', (event) => {
    const list = at('decisions');
    list.prepend(decision(JSON.parse(event.data)));
    while (list.children.length > DECISIONS) list.lastChild.remove();
    soon();
  });
  source.addEventListener('missed', soon);
  // Too many followers, or another daemon: the readings once a second go on meanwhile.
  source.addEventListener('error', () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 10000);
  });
}

// ── the clockwork ──

let polling = null;
let again = false;

/** Reads what has changed; who asks meanwhile is served by one more reading. */
function poll() {
  if (polling) {
    again = true;
    return polling;
  }
  polling = read().finally(() => {
    polling = null;
    if (again) {
      again = false;
      poll();
    }
  });
  return polling;
}

async function read() {
  try {
    const node = get('api/v1/node');
    for (let round = 0; round < 3 && !learn(await get(`api/v1/vips?after=${view.after}`)); round += 1);
    tellNode(await node);
    redraw();
    if (!view.heard) performance.mark('vips');
    if (view.chosen) await tellStory();
    at('live').className = '';
    say(at('live'), 'live');
  } catch (error) {
    at('live').className = 'lost';
    say(at('live'), `no answer: what is shown is from ${view.heard ?? 'before'} (${error.message})`);
    return;
  }
  view.heard = new Date().toLocaleTimeString();
}

function move(event) {
  const [scroller, height] = [at('scroller'), rowHeight()];
  const inside = document.activeElement?.closest?.('#vips tbody a') || document.activeElement === scroller;
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity }[event.key];
  if (steps === undefined || (!inside && event.key !== 'ArrowDown')) return;
  event.preventDefault();
  const now = inside ? view.order.findIndex((row) => row.vip === view.focused) : -1;
  const next = Math.min(view.order.length - 1, Math.max(0, now + steps));
  const row = view.order[next];
  if (!row) return;
  const top = next * height;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  const room = scroller.clientHeight - 2 * height;
  if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
  draw();
  drawn.get(row.vip)?.querySelector('a').focus({ preventScroll: true });
}

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches?.('input');
  if (event.key === '/' && !typing) {
    event.preventDefault();
    at('search').focus();
  } else if (event.key === 'Escape' && view.chosen) {
    leave();
  } else if (event.target.closest?.('#list') && !event.ctrlKey && !event.metaKey && !event.altKey) {
    if (!typing || event.key === 'ArrowDown') move(event);
  }
});
at('vips').addEventListener('focusin', (event) => {
  view.focused = event.target.closest('tbody tr')?.dataset.vip ?? view.focused;
});
at('search').addEventListener('input', (event) => {
  view.words = event.target.value;
  at('scroller').scrollTop = 0;
  redraw();
});
at('scroller').addEventListener('scroll', () => requestAnimationFrame(draw), { passive: true });
addEventListener('resize', () => requestAnimationFrame(draw));
addEventListener('hashchange', async () => {
  await choose(decodeURIComponent(location.hash.slice(1)) || null);
  if (view.chosen) at('story').focus();
});
for (const head of document.querySelectorAll('#vips th')) {
  head.firstElementChild.addEventListener('click', () => {
    const { key } = head.dataset;
    view.down = view.key === key ? !view.down : ['handshakes', 'refusals'].includes(key);
    view.key = key;
    for (const other of head.parentElement.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', view.down ? 'descending' : 'ascending');
    redraw();
  });
}

view.chosen = decodeURIComponent(location.hash.slice(1)) || null;
poll();
follow();
setInterval(() => { if (!document.hidden) poll(); }, POLL);
document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
