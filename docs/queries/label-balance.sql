-- Images of each label, its share, from how many collections, and how many times more the largest label has.
-- Example: placeprint sql --named label-balance
with labels as (
  select label, count(distinct image_id) as images, count(distinct source) as sources from images group by label
)
select
  label,
  images,
  images / sum(images) over () as share,
  sources,
  max(images) over () / images as times_more_in_largest
from labels
order by images desc, label
