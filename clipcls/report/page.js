// Shows the pictures of the page. Whatever comes from data becomes text or an attribute, never markup.

const TEXT = {
  en: {
    name: "English", other: "中文", dark: "Dark", light: "Light",
    about: "About this run", truth: "How good the answers are", filters: "Filters", search: "Search file names",
    label: "Label", status: "Status", order: "Order", threshold: "Threshold", reset: "Show all", close: "Close",
    before: "Previous picture", after: "Next picture", original: "Open the picture", none: "No thumbnail",
    probability: "Probability", cosine: "Cosine", allLabels: "All labels", allStates: "All pictures",
    ok: "Answered", uncertain: "Uncertain", error: "Unreadable", right: "Right", wrong: "Wrong",
    surest: "Surest first", leastSure: "Least sure first", file: "As in the run",
    shows: (label) => `shows ${label}`, isReally: (label) => `really ${label}`,
    answered: (label) => `Answer: ${label}`, unsure: "Uncertain: no label is sure enough", unread: (why) => `Could not be read: ${why}`,
    summary: (n, labels, unsure, failed) => [n + (n === "1" ? " picture" : " pictures"), labels + (labels === "1" ? " label" : " labels"),
      unsure && `${unsure} uncertain`, failed && `${failed} unreadable`].filter(Boolean).join(" · "),
    found: (n, all) => (n === all ? `${all} pictures` : `${n} of ${all} pictures`),
    pair: (truth, called) => `that show ${truth} and were called ${called}`, nothing: "No picture fits these filters.",
    calibration: "Calibration", calibrationNote: "Share of right answers by probability; on the dashed line they agree",
    probe: "Few-shot probe", probeNote: "Right answers by labelled pictures a label; dashed: zero-shot", all: "all",
    confusion: "Confusion matrix", confusionNote: "Rows: what pictures show; columns: what they were called, whatever the threshold",
    pairs: "Confused most often", shown: "Shown", called: "Called", images: "Pictures",
    shareRight: "Share right", shots: "Pictures a label",
    facts: { model: "Model", fingerprint: "Fingerprint", labels: "Labels", background: "Background", prompts: "Prompts", threshold: "Threshold",
      margin: "Margin", temperature: "Temperature", paths: "Paths", created: "Created", versions: "Versions" },
    figures: { top1: "Top-1", top5: "Top-5", recall: "Mean per-class recall", macro_f1: "Macro F1", ece: "Calibration error (ECE)" },
  },
  zh: {
    name: "中文", other: "English", dark: "深色", light: "浅色",
    about: "关于这次运行", truth: "结果有多准", filters: "筛选", search: "搜索文件名",
    label: "标签", status: "状态", order: "排序", threshold: "阈值", reset: "显示全部", close: "关闭",
    before: "上一张", after: "下一张", original: "打开原图", none: "没有缩略图",
    probability: "概率", cosine: "余弦", allLabels: "所有标签", allStates: "所有图片",
    ok: "有答案", uncertain: "不确定", error: "无法读取", right: "正确", wrong: "错误",
    surest: "最有把握的在前", leastSure: "最没把握的在前", file: "按运行顺序",
    shows: (label) => `内容是${label}`, isReally: (label) => `实为${label}`,
    answered: (label) => `答案：${label}`, unsure: "不确定：没有足够可信的标签", unread: (why) => `无法读取：${why}`,
    summary: (n, labels, unsure, failed) => [`${n} 张图片`, `${labels} 个标签`, unsure && `${unsure} 张不确定`, failed && `${failed} 张无法读取`]
      .filter(Boolean).join(" · "),
    found: (n, all) => (n === all ? `共 ${all} 张图片` : `${all} 张图片中的 ${n} 张`),
    pair: (truth, called) => `（实为${truth}，答成${called}）`, nothing: "没有符合筛选条件的图片。",
    calibration: "校准曲线", calibrationNote: "各概率区间的正确率；落在虚线上表示概率可信",
    probe: "少样本探针", probeNote: "每个标签的标注图片数与正确率；虚线为零样本", all: "全部",
    confusion: "混淆矩阵", confusionNote: "行：实际内容；列：答案，不计阈值",
    pairs: "最常混淆", shown: "实际", called: "答案", images: "图片数",
    shareRight: "正确率", shots: "每个标签的图片数",
    facts: { model: "模型", fingerprint: "指纹", labels: "标签", background: "背景标签", prompts: "提示模板", threshold: "阈值",
      margin: "领先幅度", temperature: "温度", paths: "路径", created: "时间", versions: "版本" },
    figures: { top1: "Top-1 正确率", top5: "Top-5 正确率", recall: "平均每类召回率", macro_f1: "宏平均 F1", ece: "校准误差（ECE）" },
  },
};
const WIDEST_MATRIX = 24; // labels; of more the pairs that are confused most
const MOST_PAIRS = 15;
const AHEAD = 700; // pixels beyond the window in which tiles are built
const CAPTION = 54; // pixels of a tile below its picture: bar and words

const $ = (id) => document.getElementById(id);
const read = (script) => JSON.parse(script.textContent);
const page = read($("page"));
const items = [...document.querySelectorAll("script.items")].flatMap((script) => read(script));
const blocks = [...document.querySelectorAll("script.thumbnails")];
items.forEach((item, at) => {
  item.at = at;
  item.ranked ??= [];
  item.answer ??= [];
  item.search = item.path.normalize().toLowerCase();
});
const judged = items.some((item) => item.truth !== undefined);

const state = { search: "", label: "", status: "", order: "surest", threshold: page.threshold, pair: null };
let language = page.lang ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let words = TEXT[language];
let sections = []; // of the gallery: kind, name, members, the tiles' place in `shown`, what is built
let shown = []; // every tile's item, in order
let current = 0; // the tile that has or had the focus, by its place in `shown`

// Small helpers

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function draw(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const number = (value) => new Intl.NumberFormat(language).format(value);
const percent = (value, digits = 1) =>
  new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
// A score as its measure is written: a probability as a share, a cosine as the number it is.
const measured = (value) => (page.measure === "cosine" ? value.toFixed(3) : percent(value));
function bar(share) {
  const filled = make("i");
  filled.style.setProperty("--share", share);
  return make("span", { class: "bar", "aria-hidden": "true" }, filled);
}
function thumbnail(item) {
  const block = Math.floor(item.at / page.block);
  if (blocks[block] instanceof Element) blocks[block] = read(blocks[block]); // read when first seen
  return blocks[block][item.at % page.block];
}
const fileName = (item) => item.path.slice(Math.max(item.path.lastIndexOf("/"), item.path.lastIndexOf("\\")) + 1) || item.path;
const listed = (labels) => labels.join(language === "zh" ? "、" : ", ");

// Answers, as the threshold has them

function answer(item) {
  if (item.error !== undefined || item.held) return [];
  if (state.threshold === page.threshold) return item.answer;
  const sure = item.ranked.filter(([, probability]) => probability >= state.threshold).map(([label]) => label);
  if (!page.multi) return sure.length ? (item.answer.length ? item.answer : [item.ranked[0][0]]) : [];
  const below = new Set(item.ranked.map(([label]) => label));
  return [...sure, ...item.answer.filter((label) => !below.has(label))];
}
const statusOf = (item, labels) => (item.error !== undefined ? "error" : labels.length ? "ok" : "uncertain");
const isRight = (item) => item.ranked.length > 0 && item.truth === item.ranked[0][0];
const scoreOf = (item, label) => (item.ranked.find(([name]) => name === label) ?? item.ranked[0] ?? ["", 0])[1];

function fits(item, labels) {
  const status = statusOf(item, labels);
  if (state.search && !item.search.includes(state.search)) return false;
  if (state.label && !labels.includes(state.label) && !(status === "uncertain" && item.ranked[0][0] === state.label)) return false;
  if (state.pair && !(item.truth === state.pair[0] && item.ranked[0]?.[0] === state.pair[1])) return false;
  if (state.status === "right" || state.status === "wrong") {
    return item.truth !== undefined && item.ranked.length > 0 && isRight(item) === (state.status === "right");
  }
  return !state.status || state.status === status;
}

// The gallery: a section a label, of which only the rows near the window are built

function arrange() {
  const byLabel = new Map(page.labels.map((label) => [label, []]));
  const uncertain = [], failed = [];
  let count = 0;
  for (const item of items) {
    const labels = answer(item);
    if (!fits(item, labels)) continue;
    count++;
    if (item.error !== undefined) failed.push(item);
    else if (!labels.length) uncertain.push(item);
    for (const label of labels) {
      if (state.label && label !== state.label) continue;
      if (!byLabel.has(label)) byLabel.set(label, []);
      byLabel.get(label).push(item);
    }
  }
  const groups = [...byLabel].map(([name, members]) => ({ kind: "ok", name, members }));
  groups.push({ kind: "uncertain", name: null, members: uncertain }, { kind: "error", name: null, members: failed });
  sections = groups.filter((group) => group.members.length);
  const direction = { surest: -1, leastSure: 1 }[state.order];
  for (const { name, kind, members } of sections) {
    if (direction && kind !== "error") members.sort((a, b) => direction * (scoreOf(a, name) - scoreOf(b, name)));
  }
  shown = sections.flatMap((section) => section.members);
  current = Math.min(current, Math.max(shown.length - 1, 0));
  $("found").textContent = count ? words.found(number(count), number(items.length)) + (state.pair ? " " + words.pair(...state.pair) : "") : words.nothing;
  $("reset").hidden = count === items.length;
  build();
}

function build() {
  const gallery = $("gallery");
  const narrow = innerWidth <= 700;
  const gap = narrow ? 10 : 14;
  const columns = Math.max(2, Math.floor((gallery.clientWidth + gap) / ((narrow ? 104 : 156) + gap)));
  const side = Math.floor((gallery.clientWidth - gap * (columns - 1)) / columns);
  let start = 0;
  gallery.replaceChildren(...sections.map((section, at) => {
    const list = section.kind === "error";
    const height = list ? (narrow ? 64 : 52) : side + CAPTION;
    Object.assign(section, { at, start, columns: list ? 1 : columns, height, pitch: height + (list ? 8 : gap), built: new Map() });
    section.count = Math.ceil(section.members.length / section.columns);
    section.rows = make("div", { class: "rows" });
    section.rows.style.height = `${section.count * section.pitch}px`;
    section.rows.style.setProperty("--columns", section.columns);
    start += section.members.length;
    const heading = make("h3", { id: `group-${at}` }, make("span", {}, section.name ?? words[section.kind]), make("span", {}, number(section.members.length)));
    return make("section", { class: "group", "data-kind": section.kind, "aria-labelledby": heading.id }, heading, section.rows);
  }));
  fill();
}

function fill() {
  for (const section of sections) {
    const top = section.rows.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - AHEAD) / section.pitch));
    const last = Math.min(section.count - 1, Math.floor((innerHeight - top + AHEAD) / section.pitch));
    for (const [at, row] of section.built) {
      if ((at < first || at > last) && !row.contains(document.activeElement)) {
        row.remove();
        section.built.delete(at);
      }
    }
    for (let at = last; at >= first; at--) { // from below, so that each row finds the one it comes before
      if (section.built.has(at)) continue;
      const row = rowOf(section, at);
      section.rows.insertBefore(row, section.built.get(at + 1) ?? null);
      section.built.set(at, row);
    }
  }
}

function rowOf(section, at) {
  const row = make("div", { class: "row" });
  row.style.top = `${at * section.pitch}px`;
  row.style.height = `${section.height}px`;
  const from = at * section.columns;
  section.members.slice(from, from + section.columns).forEach((item, column) => row.append(tile(section, item, section.start + from + column)));
  return row;
}

function tile(section, item, place) {
  const node = make("button", { type: "button", class: "tile", title: item.path, "data-place": place, tabindex: place === current ? 0 : -1 });
  const name = make("span", { class: "name" }, section.kind === "error" ? item.error : fileName(item));
  if (section.kind === "error") {
    node.classList.add("broken");
    node.append(make("b", {}, item.path), name);
    node.setAttribute("aria-label", `${item.path}: ${words.unread(item.error)}`);
    return node;
  }
  const label = section.name ?? item.ranked[0][0];
  const score = scoreOf(item, label);
  const picture = make("span", { class: "picture" });
  const source = thumbnail(item);
  if (source) picture.append(make("img", { src: source, alt: "", decoding: "async" }));
  else picture.append(words.none);
  const wrong = item.truth !== undefined && !isRight(item);
  const note = wrong ? make("em", { class: "wrong" }, words.isReally(item.truth)) : section.name === null ? make("em", {}, label) : "";
  node.classList.toggle("unsure", section.kind === "uncertain");
  node.append(picture, bar(score), make("span", { class: "words" }, make("span", {}, make("b", {}, measured(score)), note), name));
  node.setAttribute("aria-label", [item.path, label, measured(score), section.name === null && words.uncertain, wrong && words.isReally(item.truth)].filter(Boolean).join(", "));
  return node;
}

// The keyboard

const sectionOf = (place) => sections.findLast((section) => section.start <= place);

function below(place) {
  const { at, start, columns, members, count } = sectionOf(place);
  const inside = place - start;
  if (Math.floor(inside / columns) < count - 1) return start + Math.min(inside + columns, members.length - 1);
  const next = sections[at + 1];
  return next ? next.start + Math.min(inside % columns, next.columns - 1, next.members.length - 1) : place;
}
function above(place) {
  const { at, start, columns } = sectionOf(place);
  const inside = place - start;
  if (inside >= columns) return place - columns;
  const last = sections[at - 1];
  return last ? last.start + Math.min((last.count - 1) * last.columns + Math.min(inside, last.columns - 1), last.members.length - 1) : place;
}
const STEPS = {
  ArrowRight: (place) => place + 1, ArrowLeft: (place) => place - 1, ArrowDown: below, ArrowUp: above,
  Home: () => 0, End: () => shown.length - 1,
};

function focusTile(place) {
  const section = sectionOf(place);
  if (!section) return;
  const old = document.querySelector('.tile[tabindex="0"]');
  current = place;
  const row = Math.floor((place - section.start) / section.columns);
  const top = section.rows.getBoundingClientRect().top + row * section.pitch;
  const free = document.querySelector(".toolbar").offsetHeight + 56; // and a heading
  if (top < free) scrollBy(0, top - free);
  else if (top + section.height > innerHeight - 16) scrollBy(0, top + section.height - innerHeight + 16);
  fill();
  const node = section.built.get(row).children[(place - section.start) % section.columns];
  old?.setAttribute("tabindex", -1);
  node.setAttribute("tabindex", 0);
  node.focus({ preventScroll: true });
}

// One picture

function open(place) {
  const item = shown[place];
  if (!item) return;
  current = place;
  const view = $("view");
  const labels = answer(item);
  const source = item.error === undefined && thumbnail(item);
  const image = view.querySelector("img");
  image.hidden = !source;
  if (source) image.src = source;
  view.querySelector(".none").hidden = Boolean(source);
  $("view-name").textContent = item.path;
  const verdict = { ok: words.answered(listed(labels)), uncertain: words.unsure, error: words.unread(item.error) }[statusOf(item, labels)];
  view.querySelector(".verdict").textContent = verdict + (item.truth === undefined ? "" : ` · ${words.shows(item.truth)}`);
  view.querySelector("table").hidden = !item.ranked.length;
  view.querySelector("tbody").replaceChildren(...item.ranked.map(([label, probability, cosine]) =>
    make("tr", labels.includes(label) ? { class: "answer" } : {},
      make("td", {}, label, bar(probability)), make("td", {}, page.measure === "cosine" ? "" : percent(probability)), make("td", {}, cosine.toFixed(3)))));
  const link = view.querySelector("a");
  link.hidden = !item.link;
  if (item.link) link.setAttribute("href", item.link);
  view.querySelector('[data-act="before"]').disabled = place === 0;
  view.querySelector('[data-act="after"]').disabled = place === shown.length - 1;
  if (!view.open) view.showModal();
}

// How good the answers are

function showTruth() {
  const { truth } = page;
  if (!truth) return;
  $("truth").hidden = false;
  document.querySelector(".figures").replaceChildren(...truth.figures.map(([name, value, low, high]) => {
    const interval = low === null ? "" : make("small", {}, `${percent(low)} – ${percent(high)}`);
    return make("div", {}, make("small", {}, words.figures[name] ?? name), make("b", {}, percent(value)), interval);
  }));
  const plots = truth.bins.some(([, , count]) => count) ? [calibration(truth.bins)] : [];
  if (truth.probe?.points.length) plots.push(probe(truth.probe));
  document.querySelector(".plots").replaceChildren(...plots);
  document.querySelector(".confusion").replaceChildren(truth.labels.length <= WIDEST_MATRIX ? matrix(truth) : confused(truth));
}

// A square plot of shares from 0 to 1 on both axes; ticks of x are [place, text].
function plot(title, note, description, ticks, below, beside) {
  const left = 44, top = 8, width = 300, height = 200;
  const x = (value) => left + value * width, y = (value) => top + (1 - value) * height;
  const svg = draw("svg", { viewBox: "0 0 352 252", role: "img", "aria-label": `${title}: ${description}` });
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("path", { class: "axis", d: `M${x(0)} ${y(value)}H${x(1)}` }));
    svg.append(draw("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, percent(value, 0)));
  }
  for (const [value, text] of ticks) svg.append(draw("text", { x: x(value), y: y(0) + 17, "text-anchor": "middle" }, text));
  svg.append(draw("text", { x: x(0.5), y: y(0) + 36, "text-anchor": "middle" }, below));
  svg.append(draw("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(6 ${y(0.5)}) rotate(-90)` }, beside));
  return { svg, x, y, figure: make("figure", {}, make("figcaption", {}, title, make("small", {}, note)), svg) };
}
const curve = (points, x, y) => draw("path", { class: "curve", d: "M" + points.map(([a, b]) => `${x(a)} ${y(b)}`).join("L") });
function dot(at, radius, text, x, y) {
  const node = draw("circle", { class: "dot", cx: x(at[0]), cy: y(at[1]), r: radius });
  node.append(draw("title", {}, text));
  return node;
}

function calibration(bins) {
  const full = bins.filter(([, , count]) => count);
  const most = Math.max(...full.map(([, , count]) => count));
  const told = ([, , count, probability, right]) => `${percent(probability)} → ${percent(right)} (${number(count)})`;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => [value, percent(value, 0)]);
  const { svg, x, y, figure } = plot(words.calibration, words.calibrationNote, full.map(told).join("; "), ticks, words.probability, words.shareRight);
  for (const [low, high, count] of full) {
    const share = (count / most) * 0.3;
    svg.append(draw("rect", { class: "count", x: x(low) + 1, width: x(high) - x(low) - 2, y: y(share), height: y(0) - y(share) }));
  }
  svg.append(draw("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }));
  svg.append(curve(full.map(([, , , probability, right]) => [probability, right]), x, y));
  for (const bin of full) svg.append(dot([bin[3], bin[4]], 3 + 3 * Math.sqrt(bin[2] / most), told(bin), x, y));
  return figure;
}

function probe({ zeroShot, points }) {
  const place = (at) => (points.length === 1 ? 0.5 : 0.04 + (0.92 * at) / (points.length - 1)); // shots double: a log scale
  const name = ([shots]) => (shots === null ? words.all : number(shots));
  const told = (point) => `${name(point)}: ${percent(point[1])}` + (point[2] ? ` ± ${percent(point[2])}` : "");
  const description = [...points.map(told), `zero-shot: ${percent(zeroShot)}`].join("; ");
  const { svg, x, y, figure } = plot(words.probe, words.probeNote, description, points.map((point, at) => [place(at), name(point)]), words.shots, words.shareRight);
  svg.append(draw("path", { class: "level", d: `M${x(0)} ${y(zeroShot)}H${x(1)}` }));
  points.forEach(([, top1, spread], at) => {
    const [low, high] = [Math.max(top1 - spread, 0), Math.min(top1 + spread, 1)];
    svg.append(draw("path", { class: "curve", d: `M${x(place(at))} ${y(low)}V${y(high)}` }));
  });
  svg.append(curve(points.map(([, top1], at) => [place(at), top1]), x, y));
  points.forEach((point, at) => svg.append(dot([place(at), point[1]], 4, told(point), x, y)));
  return figure;
}

function cell(truth, shownAt, calledAt, heat) {
  const count = truth.confusion[shownAt][calledAt];
  const pair = [truth.labels[shownAt], truth.labels[calledAt]];
  const node = make(judged && count ? "button" : "span", { class: "cell", title: `${pair[0]} → ${pair[1]}` }, number(count));
  node.classList.toggle("right", shownAt === calledAt);
  node.classList.toggle("nought", !count);
  node.style.setProperty("--heat", heat);
  if (judged && count) node.onclick = () => filterBy(pair);
  return node;
}

function matrix(truth) {
  const head = make("tr", {}, make("td"), ...truth.labels.map((label) => make("th", { scope: "col", title: label }, label)));
  const body = truth.confusion.map((row, shownAt) => {
    const sum = row.reduce((total, count) => total + count, 0) || 1;
    const cells = row.map((count, calledAt) => make("td", {}, cell(truth, shownAt, calledAt, Math.sqrt(count / sum))));
    return make("tr", {}, make("th", { scope: "row", title: truth.labels[shownAt] }, truth.labels[shownAt]), ...cells);
  });
  const caption = make("caption", {}, words.confusion, make("small", {}, words.confusionNote));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": words.confusion },
    make("table", {}, caption, make("thead", {}, head), make("tbody", {}, ...body)));
}

function confused(truth) {
  const pairs = truth.confusion.flatMap((row, shownAt) => row.map((count, calledAt) => [count, shownAt, calledAt]))
    .filter(([count, shownAt, calledAt]) => count && shownAt !== calledAt).sort((a, b) => b[0] - a[0]).slice(0, MOST_PAIRS);
  const head = ["shown", "called", "images"].map((name) => make("th", { scope: "col" }, words[name]));
  const body = pairs.map(([, shownAt, calledAt]) =>
    make("tr", {}, make("td", {}, truth.labels[shownAt]), make("td", {}, truth.labels[calledAt]), make("td", {}, cell(truth, shownAt, calledAt, 0))));
  return make("table", { class: "pairs" }, make("caption", {}, words.pairs), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

// Language, theme and filters

function showWords() {
  words = TEXT[language];
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words[node.dataset.text];
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", words[node.dataset.label]);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = words[node.dataset.hint];
  $("lang").textContent = words.other;
  $("lang").lang = language === "zh" ? "en" : "zh";
  $("theme").textContent = isDark() ? words.light : words.dark;
  const count = (status) => items.filter((item) => statusOf(item, item.answer) === status).length;
  const labels = new Set([...page.labels, ...items.flatMap((item) => item.answer)]);
  const some = (value) => value && number(value);
  $("summary").textContent = words.summary(number(items.length), number(labels.size), some(count("uncertain")), some(count("error")));
  const best = items.flatMap((item) => item.ranked.slice(0, 1).map(([label]) => label));
  choices("label", ["", words.allLabels], ...[...new Set([...labels, ...best])].map((label) => [label, label]));
  const states = ["ok", "uncertain", "error", ...(judged ? ["right", "wrong"] : [])];
  choices("status", ["", words.allStates], ...states.map((name) => [name, words[name]]));
  choices("order", ...["surest", "leastSure", "file"].map((name) => [name, words[name]]));
  document.querySelector("#about dl").replaceChildren(...page.about.flatMap(([name, value]) =>
    [make("dt", {}, words.facts[name] ?? name), make("dd", {}, ...(Array.isArray(value) ? value.map((each) => make("span", {}, each)) : [value]))]));
  $("about").hidden = !page.about.length;
  showTruth();
  showFilters();
}

function choices(id, ...options) {
  $(id).replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

function showFilters() {
  for (const id of ["label", "status", "order"]) $(id).value = state[id];
  $("threshold").value = state.threshold;
  $("share").textContent = page.measure === "cosine" ? measured(state.threshold)
    : percent(state.threshold, Number.isInteger(Math.round(state.threshold * 1e6) / 1e4) ? 0 : 1);
}

function filterBy(pair) {
  Object.assign(state, { search: "", label: "", status: "", threshold: page.threshold, pair });
  $("search").value = "";
  showFilters();
  arrange();
  if (pair) document.querySelector(".toolbar").scrollIntoView({ block: "start" });
}

const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

// What the person does

addEventListener("scroll", fill, { passive: true }); // which comes once a frame
let width = innerWidth;
addEventListener("resize", () => (innerWidth === width ? fill() : ((width = innerWidth), build()))); // a phone's bars come and go
new ResizeObserver(([{ target }]) => document.documentElement.style.setProperty("--toolbar", `${target.offsetHeight - 1}px`)).observe(document.querySelector(".toolbar"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => ($("theme").textContent = isDark() ? words.light : words.dark));

$("search").addEventListener("input", ({ target }) => {
  state.search = target.value.trim().normalize().toLowerCase();
  arrange();
});
for (const id of ["label", "status", "order"]) {
  $(id).addEventListener("change", ({ target }) => {
    state[id] = target.value;
    arrange();
  });
}
$("threshold").addEventListener("input", ({ target }) => {
  state.threshold = Number(target.value);
  $("share").textContent = page.measure === "cosine" ? measured(state.threshold) : percent(state.threshold, 0);
  arrange();
});
$("reset").addEventListener("click", () => filterBy(null));
$("more").addEventListener("click", ({ target }) => {
  const open = document.querySelector(".toolbar").classList.toggle("open");
  target.setAttribute("aria-expanded", open);
});
$("lang").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  showWords();
  arrange();
});
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  $("theme").textContent = isDark() ? words.light : words.dark;
});
for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", fill);

$("gallery").addEventListener("click", ({ target }) => {
  const node = target.closest(".tile");
  if (node) open(Number(node.dataset.place));
});
$("gallery").addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  focusTile(Math.min(Math.max(step(Number(event.target.dataset.place)), 0), shown.length - 1));
});
const view = $("view");
const acts = { close: () => view.close(), before: () => open(current - 1), after: () => open(current + 1) };
view.addEventListener("click", ({ target }) => (target === view ? view.close() : acts[target.dataset.act]?.()));
view.addEventListener("keydown", ({ key }) => ({ ArrowLeft: acts.before, ArrowRight: acts.after })[key]?.());
view.addEventListener("close", () => focusTile(current));

showWords();
arrange();
