-- Quarantine keeps every refused row as it came: `content` is its columns as JSON, whatever table it
-- was meant for, and part of the key, so that two rows of one time that contradict each other both
-- stay. Refused signals are of kind 'signals', without a venue.

ALTER TABLE quarantine
    ADD COLUMN IF NOT EXISTS content String,
    MODIFY ORDER BY (kind, venue, interval_ms, symbol, open_time, defect, content);
