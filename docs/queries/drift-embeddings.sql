-- How far embeddings moved between two versions: of each label, and of all, the cosine between the mean vectors.
-- 1 is no drift. The labels are those of the images that each version was made from.
-- $before, $after: versions of the table embeddings, as `placeprint store list` names them; of one encoder.
-- Example: placeprint sql --named drift-embeddings --param before=1f0c… --param after=9a77…
with made_from as (
  select is_after, recipe ->> '$.inputs.images' as images
  from versions join (values (false, $before), (true, $after)) sides(is_after, side) on starts_with(version, side)
  where table_name = 'embeddings'
),
vectors as (
  select false as is_after, image_id, embedding from embeddings_at($before)
  union all
  select true, image_id, embedding from embeddings_at($after)
),
labelled as (
  select is_after, coalesce(l.label, '(none)') as label, image_id, embedding
  from vectors join (
    select m.is_after, i.image_id, min(i.label) as label
    from images_all() i join made_from m on i.version = m.images
    group by all
  ) l using (is_after, image_id)
),
components as (
  select is_after, label, unnest(embedding)::double as x, generate_subscripts(embedding, 1) as position from labelled
),
means as (
  select
    coalesce(label, '(all)') as label,
    position,
    avg(x) filter (not is_after) as before,
    avg(x) filter (is_after) as after,
    count(*) filter (not is_after) as images_before,
    count(*) filter (is_after) as images_after
  from components
  group by grouping sets ((label, position), (position))
)
select
  label,
  max(images_before) as images_before,
  max(images_after) as images_after,
  sum(before * after) / sqrt(sum(before * before) * sum(after * after)) as cosine_of_means
from means
group by label
order by cosine_of_means, label
