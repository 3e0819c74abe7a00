// A scatter plot to point at. Its picture is an image; over it lie circles, one an agent, that follow the pointer and the keys.
// Python knows `image`, `width`, `height`, `title` and `dots`; the two sides share `selected`, a list of agents' numbers.
const SVG = 'http://www.w3.org/2000/svg'
const REACH = 9 // points of the picture: how near the pointer must come to a dot
const DRAG = 4 // and how far it must go to draw a rectangle
const NAMED = 6 // so many selected dots have their numbers beside them
let count = 0

function add(parent, name, attributes = {}) {
  const html = name === 'div' || name === 'img'
  const made = html ? document.createElement(name) : document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  return parent.appendChild(made)
}

function nearest(dots, point) {
  const far = dots.map(d => Math.hypot(d.x - point.x, d.y - point.y))
  const i = far.indexOf(Math.min(...far))
  return i >= 0 && far[i] <= REACH ? dots[i] : null
}

const rectangle = (a, b) => ({x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), width: Math.abs(a.x - b.x), height: Math.abs(a.y - b.y)})

function inside(dots, r) {
  return dots.filter(d => r.x <= d.x && d.x <= r.x + r.width && r.y <= d.y && d.y <= r.y + r.height)
}

// Up and down go by preference, left and right by episode length, so that every dot is reached
function step(dots, from, key) {
  const axis = {ArrowLeft: 'x', ArrowRight: 'x', ArrowUp: 'y', ArrowDown: 'y'}[key]
  const order = [...dots].sort((a, b) => a[axis] - b[axis] || a.agent - b.agent)
  const forward = key === 'ArrowRight' || key === 'ArrowDown'
  const i = order.findIndex(d => d.agent === from)
  if (i < 0) return order[forward ? 0 : order.length - 1]
  return order[Math.max(0, Math.min(order.length - 1, i + (forward ? 1 : -1)))]
}

function render({model, el}) {
  const id = `gm-scatter-${++count}`, size = [model.get('width'), model.get('height')]
  el.classList.add('gm-scatter')
  el.setAttribute('data-lm-suppress-shortcuts', 'true') // arrow keys are ours, not JupyterLab's
  const picture = add(el, 'img', {alt: ''}), tip = add(el, 'div', {class: 'gm-tip', 'aria-hidden': 'true'})
  const svg = add(el, 'svg', {viewBox: `0 0 ${size.join(' ')}`, tabindex: 0, role: 'listbox', 'aria-multiselectable': 'true'})
  let dots = [], circles = new Map(), at = null, start = null, brush = null

  const point = e => new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse())
  const selected = () => model.get('selected')

  function build() {
    picture.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(model.get('image'))
    svg.setAttribute('aria-label', `${model.get('title')}: arrow keys go through the agents, with Shift they add to the selection`)
    svg.replaceChildren()
    dots = model.get('dots')
    circles = new Map(dots.map(d => [d.agent, add(svg, 'circle', {
      id: `${id}-${d.agent}`, cx: d.x, cy: d.y, r: 4.2, 'data-agent': d.agent, role: 'option', 'aria-label': d.text})]))
    mark()
  }

  function mark() {
    const chosen = selected(), here = dots.filter(d => chosen.includes(d.agent))
    for (const [agent, circle] of circles) {
      circle.classList.toggle('gm-selected', chosen.includes(agent))
      circle.setAttribute('aria-selected', chosen.includes(agent))
    }
    svg.querySelectorAll('text').forEach(o => o.remove())
    for (const d of here) svg.appendChild(circles.get(d.agent)) // over the others
    if (here.length <= NAMED) for (const d of here) {
      const left = d.x > .75 * size[0]
      add(svg, 'text', {x: d.x + (left ? -7 : 7), y: d.y + 3, 'text-anchor': left ? 'end' : 'start'}).textContent = d.agent
    }
    if (here.length === 1) { at = here[0].agent; svg.setAttribute('aria-activedescendant', `${id}-${at}`) }
  }

  function choose(agents) {
    model.set('selected', [...new Set(agents)].sort((a, b) => a - b))
    model.save_changes()
  }

  function toggle(agent) {
    const chosen = selected()
    choose(chosen.includes(agent) ? chosen.filter(o => o !== agent) : [...chosen, agent])
  }

  function point_out(dot) {
    for (const [agent, circle] of circles) circle.classList.toggle('gm-near', dot !== null && agent === dot.agent)
    tip.classList.toggle('gm-shown', dot !== null)
    svg.classList.toggle('gm-hand', dot !== null)
    if (dot === null) return
    tip.textContent = dot.text
    tip.style.top = `${100 * (dot.y + 9) / size[1]}%`
    const share = dot.x / size[0] // the tip stays within the picture
    tip.style.left = `${100 * share}%`
    tip.style.transform = `translateX(${-100 * share}%)`
  }

  svg.addEventListener('pointerdown', e => {
    if (e.button) return
    start = point(e)
    if (e.pointerType === 'mouse') svg.setPointerCapture(e.pointerId)
  })
  svg.addEventListener('pointermove', e => {
    const here = point(e)
    if (!start || e.pointerType !== 'mouse') return point_out(nearest(dots, here))
    if (!brush && Math.hypot(here.x - start.x, here.y - start.y) < DRAG) return
    point_out(null)
    brush ??= add(svg, 'rect', {class: 'gm-brush'})
    for (const [key, value] of Object.entries(rectangle(start, here))) brush.setAttribute(key, value)
  })
  svg.addEventListener('pointerup', e => {
    if (!start) return
    const more = e.shiftKey || e.ctrlKey || e.metaKey, here = point(e)
    if (brush) {
      const found = inside(dots, rectangle(start, here)).map(d => d.agent)
      choose(more ? [...selected(), ...found] : found)
    } else {
      const dot = nearest(dots, here)
      if (dot && more) toggle(dot.agent)
      else if (!more) choose(dot ? [dot.agent] : [])
      if (dot) at = dot.agent
    }
    brush?.remove()
    start = brush = null
  })
  svg.addEventListener('pointercancel', () => { brush?.remove(); start = brush = null })
  svg.addEventListener('pointerleave', () => point_out(null))
  svg.addEventListener('blur', () => point_out(null))
  svg.addEventListener('keydown', e => {
    if (e.key === 'Escape') choose([])
    else if (e.key.startsWith('Arrow') && dots.length) {
      const next = step(dots, at, e.key)
      at = next.agent
      svg.setAttribute('aria-activedescendant', `${id}-${at}`)
      choose(e.shiftKey ? [...selected(), at] : [at])
      point_out(next)
    } else return
    e.preventDefault()
    e.stopPropagation()
  })

  build()
  model.on('change:dots', build)
  model.on('change:selected', mark)
  return () => { model.off('change:dots', build); model.off('change:selected', mark) }
}

export default {render}
