/* Search over the site's own index (tools/search.py), without a server or a library.
   `prepare(index)` once, then `search(prepared, query)`: the best sections, each as {url, page, heading, kind, snippet}. */
const STOP = new Set('a an and are as at be by do does for from how i in is it its of on or that the this to what when where which with'.split(' '))
const WEIGHT = {definition: 9, heading: 7, title: 6, description: 3, text: 2.5}
const GUIDES = new Set(['Start', 'Tutorials', 'How-to guides', 'Explanation', 'Glossary'])

// Words meet in one spelling: no accents, no capitals, no plural s, British and American alike
function fold(word) {
  let w = word.normalize('NFD').replace(/[\u0300-\u036f]/g, '').toLowerCase()
  if (w.length > 3 && /[^su]s$/.test(w) && !/is$/.test(w)) w = w.replace(/s$/, '')
  return w.replace(/isation/, 'ization').replace(/is(e|ed|er|ing)$/, 'iz$1').replace(/our/, 'or').replace(/grey/, 'gray')
}

// The words of a text; a name like train_population or PPOConfig counts whole and in its parts
function words(text) {
  const found = []
  for (const name of text.normalize('NFC').match(/[\p{L}\p{N}_]+/gu) || []) {
    found.push(fold(name.replace(/_/g, '')))
    const parts = name.split(/_|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])/).filter(Boolean)
    if (parts.length > 1) for (const part of parts) if (part.length > 1) found.push(fold(part))
  }
  return found.filter(w => !STOP.has(w))
}

function whole(text) { return words(text).join(' ') }

function prepare(index) {
  const terms = new Map(), texts = index.sections.map(s => words(s[4] + ' ' + s[5]))
  const mean = texts.reduce((n, t) => n + t.length, 0)/Math.max(texts.length, 1) || 1
  const add = (word, i, weight) => {
    if (!terms.has(word)) terms.set(word, new Map())
    const rows = terms.get(word)
    rows.set(i, (rows.get(i) || 0) + weight)
  }
  const spread = (text, i, weight) => { const w = new Set(words(text)); for (const o of w) add(o, i, weight/Math.sqrt(w.size)) }
  index.sections.forEach(([page, anchor, heading, defined], i) => {
    const [, title, , description] = index.pages[page], counts = new Map()
    spread(heading, i, defined ? WEIGHT.definition : WEIGHT.heading)
    spread(title, i, anchor ? WEIGHT.title/6 : WEIGHT.title)
    if (!anchor) spread(description, i, WEIGHT.description)
    for (const w of texts[i]) counts.set(w, (counts.get(w) || 0) + 1)
    for (const [w, n] of counts) add(w, i, WEIGHT.text*n/(n + .6 + 1.4*texts[i].length/mean))
  })
  return {index, terms, names: index.sections.map(([page, anchor, heading]) => whole(anchor ? heading : index.pages[page][1]))}
}

// What sections a word occurs in, and how weightily; a word may be the beginning of a longer one
function matches({terms, index}, word) {
  const found = new Map(), n = index.sections.length
  for (const [term, rows] of terms) {
    const like = term === word ? 1 : word.length > 2 && term.startsWith(word) ? .3 + .4*word.length/term.length : 0
    if (!like) continue
    const rare = Math.log(1 + n/rows.size)
    for (const [i, weight] of rows) found.set(i, Math.max(found.get(i) || 0, like*rare*weight))
  }
  return found
}

function search(prepared, query, limit = 10) {
  const {index, names} = prepared, asked = [...new Set(words(query))], scores = new Map(), hits = new Map()
  const exact = query.trim().replace(/\(\)$/, ''), same = whole(query), code = /[a-z][A-Z]|[A-Z]{2}|_|\(\)$/.test(query.trim())
  for (const word of asked) for (const [i, weight] of matches(prepared, word)) {
    scores.set(i, (scores.get(i) || 0) + weight)
    hits.set(i, (hits.get(i) || 0) + 1)
  }
  const ranked = [...scores].map(([i, score]) => {
    const [page, anchor, heading, defined] = index.sections[i], kind = index.pages[page][2]
    let total = score*(hits.get(i)/asked.length)**2
    if (names[i] === same) total += kind === 'Glossary' ? 45 : defined ? 30 : 25
    if (defined && heading === exact) total += code ? 60 : 5
    if (!anchor) total *= 1.1
    if (!code && asked.length > 1) total *= defined ? .75 : GUIDES.has(kind) ? 1.25 : 1 // who asks in words wants an explanation
    return [i, total]
  }).sort((a, b) => b[1] - a[1] || a[0] - b[0])
  const found = [], pages = new Map()
  for (const [i] of ranked) {
    const [page, anchor, heading, , text] = index.sections[i], [address, title, kind, description] = index.pages[page]
    if ((pages.get(page) || 0) >= 3) continue
    pages.set(page, (pages.get(page) || 0) + 1)
    found.push({url: address + (anchor ? '#' + anchor : ''), page: title, heading, kind, snippet: snippet(anchor ? text : description, asked)})
    if (found.length === limit) break
  }
  return found
}

// The piece of a text around the first word that was asked for
function snippet(text, asked, length = 150) {
  if (text.length <= length) return text
  let at = 0
  for (const m of text.matchAll(/[\p{L}\p{N}_]+/gu)) if (words(m[0]).some(w => asked.some(a => w.startsWith(a)))) { at = m.index; break }
  const begin = at < length - 40 ? 0 : text.indexOf(' ', at - 60) + 1, end = text.lastIndexOf(' ', begin + length)
  return (begin ? '… ' : '') + text.slice(begin, end > begin ? end : begin + length) + ' …'
}

// The box: the index is fetched when somebody first looks for something
if (typeof document !== 'undefined') {
  const root = document.currentScript.dataset.root, form = document.querySelector('form.search')
  const box = form.querySelector('input'), list = form.querySelector('ul')
  let prepared, chosen = -1
  form.hidden = false
  const load = () => {
    if (document.getElementById('search-index')) return
    const script = document.createElement('script')
    script.id = 'search-index'
    script.src = root + 'search-index.js'
    script.onload = () => { prepared = prepare(siteIndex); show() }
    document.head.append(script)
  }
  const element = (tag, text, name) => Object.assign(document.createElement(tag), {textContent: text, className: name || ''})
  const choose = k => {
    const items = [...list.querySelectorAll('a')]
    if (!items.length) return
    chosen = (k + items.length)%items.length
    items.forEach((a, j) => a.classList.toggle('chosen', j === chosen))
    items[chosen].scrollIntoView({block: 'nearest'})
  }
  const show = () => {
    const query = box.value.trim(), found = prepared && query ? search(prepared, query) : []
    chosen = -1
    list.replaceChildren(...found.map(o => {
      const item = document.createElement('li'), a = document.createElement('a'), head = element('span', o.heading || o.page, 'head')
      a.href = root + o.url
      head.append(element('span', o.heading && o.kind !== o.page ? `${o.kind}: ${o.page}` : o.kind, 'where'))
      a.append(head, element('span', o.snippet, 'snippet'))
      item.append(a)
      return item
    }))
    if (prepared && query && !found.length) list.append(element('li', 'Nothing found', 'none'))
    list.hidden = !list.children.length
  }
  box.addEventListener('focus', () => { load(); show() })
  box.addEventListener('input', () => { load(); show() })
  box.addEventListener('keydown', event => {
    if (event.key === 'ArrowDown') choose(chosen + 1)
    else if (event.key === 'ArrowUp') choose(chosen - 1)
    else if (event.key === 'Escape') { box.value = ''; list.hidden = true; box.blur() }
    else return
    event.preventDefault()
  })
  form.addEventListener('submit', event => {
    event.preventDefault()
    const items = list.querySelectorAll('a')
    if (items.length) location.href = items[Math.max(chosen, 0)].href
  })
  document.addEventListener('keydown', event => {
    if (event.key === '/' && !/input|textarea/i.test(document.activeElement.tagName)) { event.preventDefault(); box.focus() }
  })
  document.addEventListener('click', event => { if (!form.contains(event.target)) list.hidden = true })
}
