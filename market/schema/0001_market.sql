-- What the market did. Times are UTC milliseconds; the *_at aliases show them as dates.
--
-- Each table holds one row per fact once `FINAL` is read; a row that differs from the stored one is
-- written with a later `ingested_at`, and the one it replaces is copied to `superseded` first, so no
-- version is ever lost to a merge. Read `FINAL` with a bound on time.
--
-- index_granularity: a decision reads a few hundred rows per symbol; 8192 would read 16 times more.
-- fsync: an acknowledged row survives a power cut.

CREATE TABLE IF NOT EXISTS bars
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
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS mark_bars
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
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(open_time, 'UTC'))
ORDER BY (venue, interval_ms, symbol, open_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

-- nominal_time is funding_time floored to the minute: the venues add milliseconds of jitter.
CREATE TABLE IF NOT EXISTS settlements
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
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYear(fromUnixTimestamp64Milli(nominal_time, 'UTC'))
ORDER BY (venue, symbol, nominal_time)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1;

-- Versions that a later one replaced. `kind` is the table that the row was in, `time` its open_time
-- or nominal_time, `content` the values as JSON; interval_ms is 0 for settlements.
CREATE TABLE IF NOT EXISTS superseded
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
ENGINE = ReplacingMergeTree(superseded_at)
ORDER BY (kind, venue, interval_ms, symbol, time, ingested_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Rows from outside that broke a rule, with the rule. Values may be NaN or infinite.
CREATE TABLE IF NOT EXISTS quarantine
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
    ingested_at Int64
)
ENGINE = ReplacingMergeTree(ingested_at)
ORDER BY (kind, venue, interval_ms, symbol, open_time, defect)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
