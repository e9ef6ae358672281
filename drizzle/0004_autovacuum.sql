-- By default a table with a million finished tasks collects 200,000 dead rows before it is vacuumed, and claims walk past
-- their index entries; and its statistics are as old as 100,000 changes.
ALTER TABLE apalis.jobs SET (
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.01,
  autovacuum_analyze_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);
