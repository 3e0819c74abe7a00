-- A README has no style sheet: callouts become quotes, wrappers around outputs vanish, figures become images
local function div(el)
  for _, class in ipairs(el.classes) do
    local kind = class:match('^callout%-(%a+)$')
    if kind then
      local title = el.attributes.title or (kind:sub(1, 1):upper() .. kind:sub(2))
      el.content:insert(1, pandoc.Para(pandoc.Strong(title)))
      return pandoc.BlockQuote(el.content)
    end
  end
  return el.content
end

local function figure(el)
  return el.content
end

local function header(el)
  el.attr = pandoc.Attr()
  return el
end

return {{Div = div, Figure = figure, Header = header}}
