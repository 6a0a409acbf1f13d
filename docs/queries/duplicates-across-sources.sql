-- Images that are in more than one collection, the same bytes or copies that dedup found: one row a place, the kept one first.
-- Example: placeprint sql --named duplicates-across-sources
select
  coalesce('group ' || d.group_id, i.image_id) as copies,
  coalesce(d.kept, true) as kept,
  coalesce(d.certainty, 'identical') as certainty,
  d.cosine_to_kept,
  i.source,
  i.label,
  i.path
from images i left join duplicates d using (image_id)
qualify count(distinct i.source) over (partition by copies) > 1
order by copies, kept desc, d.cosine_to_kept desc, i.source, i.path
