-- ARGV: ids. Deletes dead letters. Returns how many.

local count = 0
for _, id in ipairs(ARGV) do
  if call('ZREM', ns .. 'dead', id) == 1 then
    uncount_dead(id)
    call('HDEL', ns .. 'letters', id)
    call('HDEL', ns .. 'bodies', id)
    count = count + 1
  end
end
return count
