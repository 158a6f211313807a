CREATE TABLE array (
  series INTEGER NOT NULL REFERENCES series,
  step INTEGER NOT NULL,
  dtype TEXT NOT NULL,
  shape TEXT NOT NULL,
  data BLOB NOT NULL,
  UNIQUE (series, step)
);

CREATE VIEW arrays AS
  SELECT run.id AS run, step, site, role, probe, key, dtype, shape, data
  FROM run CROSS JOIN array JOIN series ON series.id = array.series;

CREATE TABLE chunk (
  id INTEGER PRIMARY KEY,
  layout INTEGER NOT NULL REFERENCES layout,
  block INTEGER NOT NULL,
  span INTEGER NOT NULL REFERENCES span,
  dtype TEXT NOT NULL,
  present BLOB,
  data BLOB NOT NULL,
  UNIQUE (layout, block, span)
);

CREATE INDEX chunk_span ON chunk (span);

CREATE TABLE findings (
  id INTEGER PRIMARY KEY,
  analyzer TEXT NOT NULL,
  claim TEXT NOT NULL,
  cause TEXT NOT NULL,
  severity TEXT NOT NULL,
  sites TEXT NOT NULL,
  roles TEXT NOT NULL,
  effect REAL NOT NULL,
  unit TEXT NOT NULL,
  low REAL NOT NULL,
  high REAL NOT NULL,
  n INTEGER NOT NULL,
  control TEXT NOT NULL,
  remedy TEXT NOT NULL,
  reference TEXT NOT NULL
);

CREATE TABLE layout (
  id INTEGER PRIMARY KEY,
  columns INTEGER NOT NULL
);

CREATE TABLE layout_column (
  layout INTEGER NOT NULL REFERENCES layout,
  position INTEGER NOT NULL,
  series INTEGER NOT NULL REFERENCES series,
  PRIMARY KEY (layout, position)
) WITHOUT ROWID;

CREATE INDEX layout_column_series ON layout_column (series);

CREATE TABLE live (
  id INTEGER PRIMARY KEY,
  layout INTEGER NOT NULL REFERENCES layout,
  segment INTEGER NOT NULL,
  step INTEGER NOT NULL,
  dtype TEXT NOT NULL,
  present BLOB,
  data BLOB NOT NULL,
  UNIQUE (layout, segment, step)
);

CREATE TABLE metrics (
  step INTEGER NOT NULL,
  split TEXT NOT NULL,
  name TEXT NOT NULL,
  value REAL,
  epoch INTEGER,
  UNIQUE (split, name, step)
);

CREATE TABLE point (
  series INTEGER NOT NULL REFERENCES series,
  step INTEGER NOT NULL,
  value REAL,
  PRIMARY KEY (series, step)
) WITHOUT ROWID;

CREATE TABLE run (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  id TEXT NOT NULL,
  created_s REAL NOT NULL,
  status TEXT NOT NULL,
  reason TEXT,
  config TEXT NOT NULL,
  environment TEXT NOT NULL,
  recipe TEXT,
  source TEXT
);

CREATE TABLE sample (
  id INTEGER PRIMARY KEY,
  split TEXT NOT NULL,
  sample TEXT NOT NULL,
  patient TEXT,
  UNIQUE (split, sample)
);

CREATE VIEW samples AS
  SELECT step, split, sample.sample, name, value, epoch, patient
  FROM score JOIN sample ON sample.id = score.sample;

CREATE VIEW scalars AS
  SELECT run.id AS run, step, site, role, probe, key, value
  FROM run CROSS JOIN point JOIN series ON series.id = point.series;

CREATE TABLE score (
  name TEXT NOT NULL,
  step INTEGER NOT NULL,
  sample INTEGER NOT NULL REFERENCES sample,
  value REAL,
  epoch INTEGER,
  PRIMARY KEY (name, step, sample)
) WITHOUT ROWID;

CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  site TEXT NOT NULL,
  role TEXT NOT NULL,
  probe TEXT NOT NULL,
  key TEXT NOT NULL,
  UNIQUE (site, role, probe, key)
);

CREATE TABLE span (
  id INTEGER PRIMARY KEY,
  layout INTEGER NOT NULL REFERENCES layout,
  segment INTEGER NOT NULL,
  first_step INTEGER NOT NULL,
  last_step INTEGER NOT NULL,
  steps BLOB NOT NULL
);

CREATE INDEX span_last_step ON span (layout, last_step);

