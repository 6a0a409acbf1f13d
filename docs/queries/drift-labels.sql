-- What changed between two versions of the images: of each label, images before and after, added, removed, and its share.
-- $before, $after: versions of the table images, as `placeprint store list` names them.
-- Example: placeprint sql --named drift-labels --param before=1f0c… --param after=9a77…
with both_versions as (
  select label, image_id, bool_or(not is_after) as was, bool_or(is_after) as now_is
  from (
    select label, image_id, false as is_after from images_at($before)
    union all
    select label, image_id, true from images_at($after)
  )
  group by label, image_id
)
select
  label,
  count(*) filter (was) as images_before,
  count(*) filter (now_is) as images_after,
  count(*) filter (now_is and not was) as added,
  count(*) filter (was and not now_is) as removed,
  images_after / sum(images_after) over () - images_before / sum(images_before) over () as share_change
from both_versions
group by label
order by abs(share_change) desc, label
