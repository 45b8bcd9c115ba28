
'use strict';
// Tables are unfolded on paper; where they come from stays folded, as it fills pages.
let folded = [];
addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('section:not(#lineage) details:not([open])')];
  folded.forEach((details) => { details.open = true; });
});
addEventListener('afterprint', () => folded.forEach((details) => { details.open = false; }));

const data = document.getElementById('data');
if (data) browse(JSON.parse(data.textContent).rows);

// Shows samples page by page. What models have said becomes text and nothing else.
function browse(rows) {
  const PAGE = 10;
  const field = (id) => document.getElementById(id);
  const filters = ['text', 'task', 'model', 'verdict', 'type'].map(field);
  let found = rows, page = 0;

  const element = (name, text, className) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const searched = (row) => row.lower ??= [row.prompt, ...row.answers.flatMap((answer) =>
    [answer.text ?? '', answer.label, ...answer.reasons ?? []])].join('\n').toLowerCase();
  const differ = (answers) =>
    new Set(answers.filter((answer) => answer.verdict !== 'baseline').map((answer) => answer.label)).size > 1;

  function matches(row, [text, task, model, verdict, type]) {
    if (task && row.task !== task) return false;
    if (type && !(row.types ?? []).includes(type)) return false;
    const answers = model ? row.answers.filter((answer) => answer.model === model) : row.answers;
    if (!answers.length) return false;
    if (verdict === 'differ' && !differ(row.answers)) return false;
    if (verdict && verdict !== 'differ' && !answers.some((answer) => answer.verdict === verdict)) return false;
    return !text || searched(row).includes(text);
  }

  const COLOURS = { 'all followed': 'good', win: 'good', 'not all followed': 'bad', loss: 'bad', unscored: 'bad' };

  function answer({ model, text, verdict, label, reasons }) {
    const box = element('div', undefined, 'answer');
    const head = element('h4', model);
    head.append(element('span', label, COLOURS[verdict]));
    const body = element('div', text ?? 'no answer');
    body.tabIndex = 0;
    box.append(head, body);
    if (reasons?.length) {
      const list = element('ul');
      reasons.forEach((reason) => list.append(element('li', reason)));
      list.tabIndex = 0;
      box.append(list);
    }
    return box;
  }

  function sample(row) {
    const box = element('article');
    const types = row.types?.length ? ` · ${row.types.join(', ')}` : '';
    box.append(element('h3', `${row.task} · ${row.id}${types}`));
    if (row.prompt) {
      const prompt = element('div', row.prompt, 'prompt');
      prompt.tabIndex = 0;
      box.append(prompt);
    }
    const answers = element('div', undefined, 'answers');
    row.answers.forEach((one) => answers.append(answer(one)));
    box.append(answers);
    return box;
  }

  function show() {
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    const shown = found.slice(page * PAGE, (page + 1) * PAGE);
    field('list').replaceChildren(...shown.map(sample));
    field('count').textContent = found.length
      ? `${page * PAGE + 1} to ${page * PAGE + shown.length} of ${found.length}` : 'nothing matches';
    field('previous').disabled = page === 0;
    field('next').disabled = page === last;
  }

  function filter() {
    const values = filters.map((input) => input.value);
    values[0] = values[0].trim().toLowerCase();
    found = rows.filter((row) => matches(row, values));
    page = 0;
    show();
  }

  filters.forEach((input) => input.addEventListener('input', filter));
  field('filters').addEventListener('submit', (event) => event.preventDefault());
  field('previous').addEventListener('click', () => { page -= 1; show(); });
  field('next').addEventListener('click', () => { page += 1; show(); });
  // A browser may have kept the fields of an earlier visit.
  filter();
}
