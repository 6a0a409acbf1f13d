-- The 50 test images that most heads get wrong; among them, those with the true label furthest down in the scores.
-- `mean_rank` is the mean place of the true label, 1 is the best; null where a step keeps no scores.
-- Example: placeprint sql --named hardest-images
with judged as (
  select
    p.split,
    p.image_id,
    p.label_true,
    p.label_pred,
    p.label_pred <> p.label_true as wrong,
    1 + len(list_filter(p.scores, lambda score: score > p.scores[list_position(c.classes, p.label_true)])) as place,
    len(p.scores) > 0 as has_scores
  from predictions p
  join splits s using (split, image_id),
    (select (notes -> '$.classes')::varchar[] as classes from versions where table_name = 'predictions' and selected) c
  where s.part = 'test' and p.head <> 'majority-class'
)
select
  split,
  image_id,
  i.path,
  label_true as label,
  count(*) as heads,
  count(*) filter (wrong) as wrong_heads,
  avg(place) filter (has_scores) as mean_rank,
  coalesce(list(distinct label_pred order by label_pred) filter (wrong), []) as taken_for
from judged join (select image_id, min(path) as path from images group by image_id) i using (image_id)
group by all
order by wrong_heads / heads desc, mean_rank desc, split, image_id
limit 50
