-- The part of Quarto's markdown that the pages use: callouts, tab sets, columns and references to figures.
-- Anything else stops the build, so that the preview never shows a page that Quarto would show differently.
local callouts = {note='Note', tip='Tip', warning='Warning', important='Important', caution='Caution'}
local plain = {['cell-output']=true, pixel=true, columns=true, column=true}
local figures, count = {}, 0

local function callout(el, kind)
  local title, body = el.attributes.title, el.content
  if not title and body[1] and body[1].t == 'Header' then
    title = pandoc.utils.stringify(body[1])
    body:remove(1)
  end
  local head = pandoc.Plain(title or callouts[kind])
  if el.attributes.collapse then
    local open = el.attributes.collapse == 'false' and ' open' or ''
    body:insert(1, pandoc.RawBlock('html', '<details' .. open .. '><summary>' .. pandoc.utils.stringify(head) .. '</summary>'))
    body:insert(pandoc.RawBlock('html', '</details>'))
  else
    body:insert(1, pandoc.Div(head, {class='callout-title'}))
  end
  return pandoc.Div(body, {id=el.identifier, class='callout ' .. kind})
end

-- tabs without a script: radio buttons, each followed by its label; the panes come after all of them
local sets = 0
local function tabset(el)
  sets = sets + 1
  local tabs, panes = pandoc.List(), pandoc.List()
  for _, block in ipairs(el.content) do
    if block.t == 'Header' then
      local id = 'tab-' .. sets .. '-' .. (#panes + 1)
      local checked = #panes == 0 and ' checked' or ''
      tabs:insert('<input type="radio" name="tabs-' .. sets .. '" id="' .. id .. '"' .. checked .. '><label for="' .. id .. '">'
        .. pandoc.write(pandoc.Pandoc{pandoc.Plain(block.content)}, 'html') .. '</label>')
      panes:insert(pandoc.Div({}, {class='pane'}))
    elseif #panes == 0 then error('a tab set begins with a heading')
    else panes[#panes].content:insert(block) end
  end
  panes:insert(1, pandoc.RawBlock('html', table.concat(tabs)))
  return pandoc.Div(panes, {class='tabset'})
end

local function div(el)
  for name in pairs(el.attributes) do
    if name == 'layout-ncol' then
      el.attributes = {style='display:grid;gap:1rem;grid-template-columns:repeat(' .. el.attributes[name] .. ',minmax(0,1fr))'}
      return el
    end
  end
  for _, class in ipairs(el.classes) do
    local kind = class:match('^callout%-(%a+)$')
    if kind and callouts[kind] then return callout(el, kind) end
    if class == 'panel-tabset' then return tabset(el) end
    if not plain[class] then error('unknown div .' .. class) end
  end
end

local function number(fig)
  if not fig.identifier:match('^fig%-') then return end
  count = count + 1
  figures[fig.identifier] = count
  local first = fig.caption.long[1]
  if first then first.content = pandoc.Inlines{'Figure', pandoc.Str('\u{a0}' .. count .. ': ')} .. first.content end
  return fig
end

local function refer(cite)
  local id = cite.citations[1].id
  if not figures[id] then error('unknown reference @' .. id) end
  return pandoc.Link({'Figure\u{a0}' .. figures[id]}, '#' .. id)
end

-- pages link to notebooks, readers want the pages
local function page(link)
  local target = link.target
  if not target:match('^%a+:') then link.target = target:gsub('([^/]*)%.ipynb', function(name) return name:gsub('^%d+_', '') .. '.html' end) end
  return link
end

local function alt(img)
  img.attributes['fig-alt'], img.attributes.alt = nil, img.attributes['fig-alt']
  return img
end

return {{Div = div, Image = alt}, {Figure = number}, {Cite = refer, Link = page}}
