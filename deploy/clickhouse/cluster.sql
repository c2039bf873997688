-- Ballast's market data on a ClickHouse cluster: replicated and distributed.
--
-- THIS VARIANT WAS NEVER RUN BY ITS AUTHORS: no cluster was at hand. What is tested is only that it has
-- the tables, columns, keys and partitions of market/schema. Rehearse it before you rely on it.
--
-- How to apply it, before Ballast opens the database for the first time:
--   1. Define the cluster `ballast` in remote_servers, and on every server the macros {shard} and
--      {replica}; ClickHouse Keeper must run.
--   2. clickhouse-client --database ballast --multiquery < deploy/clickhouse/cluster.sql
--      (the database must exist on every server: CREATE DATABASE ballast ON CLUSTER ballast)
--   3. Give Ballast's user the settings profile below: ALTER USER ... SETTINGS PROFILE 'ballast'.
--   4. Set the warehouse URL to any server; Ballast finds the tables and notes its migrations.
-- A later migration of market/schema must be applied to the *_local tables by hand as well. One that
-- changes a key or a setting cannot run on a Distributed table: note it in schema_migrations, as the
-- last statement here does for 0003 and 0004. A cluster that was made before them is brought up to
-- date by
--   ALTER TABLE quarantine_local ON CLUSTER ballast ADD COLUMN content String,
--       MODIFY ORDER BY (kind, venue, interval_ms, symbol, open_time, defect, content);
--   ALTER TABLE quarantine ON CLUSTER ballast ADD COLUMN content String;
--   ALTER TABLE bars_local ON CLUSTER ballast
--       MODIFY SETTING min_compress_block_size = 8192, max_compress_block_size = 8192;
--   ALTER TABLE mark_bars_local ON CLUSTER ballast
--       MODIFY SETTING min_compress_block_size = 8192, max_compress_block_size = 8192;
-- and by the rows of that last statement that it lacks.
--
-- `ballast data quarantine --clear` is a mutation, which a Distributed table refuses: look at the rows with
-- it, and remove them by ALTER TABLE quarantine_local ON CLUSTER ballast DELETE WHERE ...
--
-- Every table T is a Distributed one over T_local. Rows of one key must meet on one shard, or FINAL
-- could not tell versions apart; so the sharding key is made of columns of the sorting key.

-- An insert is acknowledged when the shards have it, reads see what was acknowledged, and a sub-select
-- over a distributed table is sent along: the rule of revisions reads before it writes.
CREATE SETTINGS PROFILE IF NOT EXISTS ballast ON CLUSTER ballast SETTINGS
    distributed_foreground_insert = 1,
    insert_quorum = 'auto',
    insert_quorum_parallel = 0,
    select_sequential_consistency = 1,
    distributed_product_mode = 'global';

CREATE TABLE IF NOT EXISTS schema_migrations_local ON CLUSTER ballast
(version UInt32, name String, sha256 String, applied_at Int64)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', applied_at)
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER ballast AS schema_migrations_local
ENGINE = Distributed(ballast, currentDatabase(), schema_migrations_local, version);

CREATE TABLE IF NOT EXISTS bars_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    open_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    open Float64,
    high Float64,
    low Float64,
    close Float64,
    volume Float64,
    quote_volume Nullable(Float64),
    trades Nullable(Int64),
    taker_buy_volume Nullable(Float64),
    taker_buy_quote_volume Nullable(Float64),
    origin LowCardinality(String),
    ingested_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(open_time, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1,
    min_compress_block_size = 8192, max_compress_block_size = 8192;

CREATE TABLE IF NOT EXISTS bars ON CLUSTER ballast AS bars_local
ENGINE = Distributed(ballast, currentDatabase(), bars_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS mark_bars_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    open_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    open Float64,
    high Float64,
    low Float64,
    close Float64,
    ingested_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(open_time, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1,
    min_compress_block_size = 8192, max_compress_block_size = 8192;

CREATE TABLE IF NOT EXISTS mark_bars ON CLUSTER ballast AS mark_bars_local
ENGINE = Distributed(ballast, currentDatabase(), mark_bars_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS settlements_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    nominal_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    funding_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    rate Float64,
    mark_price Nullable(Float64),
    mark_source LowCardinality(String),
    ingested_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    settled_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(nominal_time, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(nominal_time, 'UTC'))
ORDER BY (venue, symbol, nominal_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS settlements ON CLUSTER ballast AS settlements_local
ENGINE = Distributed(ballast, currentDatabase(), settlements_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS superseded_local ON CLUSTER ballast
(
    kind LowCardinality(String),
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    time Int64,
    ingested_at Int64,
    superseded_at Int64,
    origin LowCardinality(String),
    content String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', superseded_at)
ORDER BY (kind, venue, interval_ms, symbol, time, ingested_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS superseded ON CLUSTER ballast AS superseded_local
ENGINE = Distributed(ballast, currentDatabase(), superseded_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS quarantine_local ON CLUSTER ballast
(
    kind LowCardinality(String),
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    open_time Int64,
    defect LowCardinality(String),
    open Float64,
    high Float64,
    low Float64,
    close Float64,
    volume Float64,
    quote_volume Nullable(Float64),
    trades Nullable(Int64),
    taker_buy_volume Nullable(Float64),
    taker_buy_quote_volume Nullable(Float64),
    ingested_at Int64,
    content String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ingested_at)
ORDER BY (kind, venue, interval_ms, symbol, open_time, defect, content)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS quarantine ON CLUSTER ballast AS quarantine_local
ENGINE = Distributed(ballast, currentDatabase(), quarantine_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS gaps_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    interval_ms Int64,
    symbol LowCardinality(String),
    open_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    kind LowCardinality(String),
    noticed_at Int64,
    updated_at Int64,
    attempts Int64,
    reason String,
    closed_at Nullable(Int64),
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(open_time, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', updated_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS gaps ON CLUSTER ballast AS gaps_local
ENGINE = Distributed(ballast, currentDatabase(), gaps_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS quotes_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    available_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    event_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    bid Nullable(Float64),
    bid_quantity Nullable(Float64),
    ask Nullable(Float64),
    ask_quantity Nullable(Float64),
    mark_price Nullable(Float64),
    index_price Nullable(Float64),
    predicted_funding_rate Nullable(Float64),
    next_funding_time Nullable(Int64),
    quoted_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(available_at, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toYear(fromUnixTimestamp64Milli(available_at, 'UTC'))
ORDER BY (venue, symbol, available_at)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS quotes ON CLUSTER ballast AS quotes_local
ENGINE = Distributed(ballast, currentDatabase(), quotes_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS books_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    decision_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    event_time Int64,
    available_at Int64,
    update_id Nullable(Int64),
    bid_prices Array(Float64),
    bid_quantities Array(Float64),
    ask_prices Array(Float64),
    ask_quantities Array(Float64),
    decided_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(decision_time, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', available_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(decision_time, 'UTC'))
ORDER BY (venue, symbol, decision_time)
SETTINGS index_granularity = 128, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS books ON CLUSTER ballast AS books_local
ENGINE = Distributed(ballast, currentDatabase(), books_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS listing_changes_local ON CLUSTER ballast
(
    venue LowCardinality(String),
    symbol LowCardinality(String),
    noticed_at Int64,
    event LowCardinality(String),
    field LowCardinality(String),
    before String,
    after String
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
ORDER BY (venue, noticed_at, symbol, event, field, before, after)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS listing_changes ON CLUSTER ballast AS listing_changes_local
ENGINE = Distributed(ballast, currentDatabase(), listing_changes_local, cityHash64(venue, symbol));

CREATE TABLE IF NOT EXISTS signals_local ON CLUSTER ballast
(
    source LowCardinality(String),
    version LowCardinality(String),
    name LowCardinality(String),
    symbol LowCardinality(String),
    event_time Int64 CODEC(DoubleDelta, ZSTD(1)),
    published_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    ingested_at Int64 CODEC(DoubleDelta, ZSTD(1)),
    value Float64,
    is_backfilled Bool,
    lag_ms Int64,
    opened_at DateTime64(3, 'UTC') ALIAS fromUnixTimestamp64Milli(published_at, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toYear(fromUnixTimestamp64Milli(published_at, 'UTC'))
ORDER BY (source, version, name, symbol, published_at, event_time, ingested_at)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS signals ON CLUSTER ballast AS signals_local
ENGINE = Distributed(ballast, currentDatabase(), signals_local, cityHash64(source, symbol));

-- Its tables have these changes already (the sums are those of the files in market/schema).
INSERT INTO schema_migrations VALUES
    (3, '0003_quarantine.sql', '2ccc00c56e75e2fb0954de56f8ee1055c3084cb2901af7ffa2fe5db9a030c48a', 0),
    (4, '0004_small_blocks.sql', '31cf8f9289c283a20464998ec76ecac150e2a2c90ff7c51a816c86e2afa33348', 0);
