-- ARGV: how long records are kept (ms), then position, id and record of each.
-- Results must be kept when Redis is out of memory too: without them nothing is acknowledged, and nothing freed.

write_when_full()
local indexes = {}
for from = 2, #ARGV, 3 do
  indexes[#indexes + 1] = from
end
return keep_records(indexes, ARGV[1]) or #indexes
