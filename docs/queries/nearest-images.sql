-- The 20 images nearest to a text or an image, by cosine: every row is compared, no index, copies are not left out.
-- $query_embedding is made of the parameter `text` or `image`.
-- Example: placeprint sql --named nearest-images --param text="a satellite photo of Egypt"
select
  array_cosine_similarity(e.embedding, $query_embedding) as cosine,
  i.label,
  i.source,
  i.path,
  image_id
from embeddings e join (from images qualify row_number() over (partition by image_id order by source, path) = 1) i using (image_id)
order by cosine desc, image_id
limit 20
