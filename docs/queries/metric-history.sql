-- One metric through all versions of the metrics: every head on the test part of each split, and the change since the last version.
-- `value` is the mean over seeds and folds, `runs` is how many there are.
-- $metric: such as accuracy; `select distinct metric from metrics` names them.
-- Example: placeprint sql --named metric-history --param metric=accuracy
select
  split,
  head,
  configuration,
  created_at,
  version,
  avg(value) as value,
  count(*) as runs,
  avg(value) - lag(avg(value)) over (partition by split, head, configuration order by created_at, version) as change,
  max(n) as images
from metrics_all()
where metric = $metric and part = 'test' and source = 'all'
group by split, head, configuration, created_at, version
order by split, head, configuration, created_at, version
