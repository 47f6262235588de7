-- ARGV: id. Returns {line, place, due, body}, or false.

local id = ARGV[1]
local order, line, body = read(call('HGET', messages, id) or '')
if order then
  local place, due = place_of(id, order, line)
  return {line, place, due, body}
end
local letter = call('HGET', ns .. 'letters', id)
if letter then
  return {string.match(letter, '^%S+ %d+ %d+ ([^\n]*)\n') or '0:', 'dead', '', call('HGET', ns .. 'bodies', id) or ''}
end
return false
