"""The tables of a run file, as a list of steps that only ever grows.

A released migration is never edited: files of every age are brought up to date by the same steps.
``user_version`` of a file is the number of migrations it has seen. What the columns mean is in
``docs/concepts/run-files.md``.
"""

import sqlite3
from collections.abc import Callable, Sequence

Migration = Callable[[sqlite3.Connection], None]


def m001_initial(connection: sqlite3.Connection) -> None:
    """Create the run, its scalars (rows and blobs), arrays, metrics, samples and findings."""
    for statement in _INITIAL.split(";\n\n"):
        connection.execute(statement)


# NULL in a value column is NaN, which SQLite cannot store; what was not measured has no row.
# No STRICT tables: Python 3.11 still meets SQLite older than 3.37.
_INITIAL = """
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

CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  site TEXT NOT NULL,
  role TEXT NOT NULL,
  probe TEXT NOT NULL,
  key TEXT NOT NULL,
  UNIQUE (site, role, probe, key)
);

CREATE TABLE point (
  series INTEGER NOT NULL REFERENCES series,
  step INTEGER NOT NULL,
  value REAL,
  PRIMARY KEY (series, step)
) WITHOUT ROWID;

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

CREATE TABLE span (
  id INTEGER PRIMARY KEY,
  layout INTEGER NOT NULL REFERENCES layout,
  segment INTEGER NOT NULL,
  first_step INTEGER NOT NULL,
  last_step INTEGER NOT NULL,
  steps BLOB NOT NULL
);

CREATE INDEX span_last_step ON span (layout, last_step);

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

CREATE TABLE array (
  series INTEGER NOT NULL REFERENCES series,
  step INTEGER NOT NULL,
  dtype TEXT NOT NULL,
  shape TEXT NOT NULL,
  data BLOB NOT NULL,
  UNIQUE (series, step)
);

CREATE TABLE metrics (
  step INTEGER NOT NULL,
  split TEXT NOT NULL,
  name TEXT NOT NULL,
  value REAL,
  epoch INTEGER,
  UNIQUE (split, name, step)
);

CREATE TABLE sample (
  id INTEGER PRIMARY KEY,
  split TEXT NOT NULL,
  sample TEXT NOT NULL,
  patient TEXT,
  UNIQUE (split, sample)
);

CREATE TABLE score (
  name TEXT NOT NULL,
  step INTEGER NOT NULL,
  sample INTEGER NOT NULL REFERENCES sample,
  value REAL,
  epoch INTEGER,
  PRIMARY KEY (name, step, sample)
) WITHOUT ROWID;

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

CREATE VIEW scalars AS
  SELECT run.id AS run, step, site, role, probe, key, value
  FROM run CROSS JOIN point JOIN series ON series.id = point.series;

CREATE VIEW arrays AS
  SELECT run.id AS run, step, site, role, probe, key, dtype, shape, data
  FROM run CROSS JOIN array JOIN series ON series.id = array.series;

CREATE VIEW samples AS
  SELECT step, split, sample.sample, name, value, epoch, patient
  FROM score JOIN sample ON sample.id = score.sample
"""

MIGRATIONS: Sequence[Migration] = (m001_initial,)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] | None = None) -> None:
    """Bring a file up to date in one transaction; the connection is in autocommit mode."""
    steps = MIGRATIONS if migrations is None else migrations
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for migration in steps[version:]:
            migration(connection)
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
