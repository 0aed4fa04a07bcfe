"""Writes the dashboards into the folder that is its argument. What Grafana imports are those files; this is for who changes them:

    python3 dashboards/grafana/source/make.py dashboards/grafana
"""
import pathlib
import sys

sys.dont_write_bytecode = True

import atlas, backups, host, jobs, model, overview  # noqa: E402

folder = pathlib.Path(sys.argv[1])
for part in (overview, backups, jobs, atlas, host):
    name, made = part.DASHBOARD
    (folder / f"{name}.json").write_text(model.text(made), encoding="utf-8")
