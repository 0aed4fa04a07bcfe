"""What a dashboard is made of: panels with a unit, a description and words for when there is nothing, laid out in rows of 24 columns.

The files that Grafana imports say everything in full, some sixty lines for each panel; here is what tells panels apart. `make.py` writes those files.
"""
import json

# A source is collected once a minute by default (`scrape.interval`), however often Prometheus comes by. As the query's `Min step` this makes
# $__rate_interval four minutes: a shorter one would show a counter that stands still, and jumps.
COLLECTED_EVERY = "1m"
# Grafana's greatest width.
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# In every selector: which sidecars are meant.
CHOSEN = 'job=~"$job",instance=~"$instance"'


def query(text):
    """PromQL in which `<>` stands for the chosen sidecars: `name<>`, `name<op="get">`."""
    out, rest = "", text
    while "<" in rest:
        before, _, after = rest.partition("<")
        # A comparison, not a selector.
        if before.endswith(" "):
            out, rest = out + before + "<", after
            continue
        matchers, _, rest = after.partition(">")
        out += before + "{" + ",".join(filter(None, [CHOSEN, matchers])) + "}"
    return out + rest


# Below every number that is one: ages are a little below 0 where clocks differ, and what is predicted may be far below.
LEAST = -1e15


def steps(*colours):
    """Thresholds. Where there is nothing, Grafana takes the first colour: that is neither good nor bad."""
    pairs = [("text", None), *colours]
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in pairs]}


def up_to(orange, red):
    """Good below `orange`."""
    return steps(("green", LEAST), ("orange", orange), ("red", red))


def down_to(orange, red):
    """Good from `orange` on, bad below `red`."""
    return steps(("red", LEAST), ("orange", red), ("green", orange))


# Any at all is worth a look, or bad.
LOOK = steps(("green", LEAST), ("orange", 1))
BAD = steps(("green", LEAST), ("red", 1))
PLAIN = steps()


def words(*texts):
    """Words for 0, 1 and so on."""
    return [{"type": "value", "options": {str(index): {"text": text, "index": index} for index, text in enumerate(texts)}}]


def never(colour):
    """For ages: the time 0 stands for never, which is more than fifty years ago."""
    return [{"type": "range", "options": {"from": 1e9, "to": 1e11, "result": {"text": "never", "color": colour, "index": 0}}}]


def target(index, text, **more):
    expr = query(text)
    interval = {"interval": COLLECTED_EVERY} if "$__rate_interval" in expr else {}
    return {"datasource": SOURCE, "refId": chr(ord("A") + index), "editorMode": "code", "expr": expr, **interval, **more}


def panel(kind, title, unit, description, empty, targets, options, width, height, thresholds=PLAIN, mappings=(), custom=None, overrides=(), goes_to=None, **more):
    defaults = {"unit": unit, "noValue": empty, "color": {"mode": "thresholds"}, "thresholds": thresholds, "mappings": list(mappings), **more}
    if custom is not None:
        defaults["custom"] = custom
    out = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"x": 0, "y": 0, "w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
        "targets": targets,
    }
    if goes_to:
        url = f"/d/atlas-sidecar-{goes_to}?${{__url_time_range}}&${{__all_variables}}"
        out["links"] = [{"title": "Details", "url": url}]
    return out


def stat(title, unit, text, description, empty, thresholds, width=4, height=3, **more):
    """One number for all the chosen sidecars, on the colour of its threshold."""
    if thresholds is not PLAIN:
        thresholds = {**thresholds, "steps": [{"color": "transparent", "value": None}, *thresholds["steps"][1:]]}
    options = {
        "colorMode": "background_solid" if thresholds is not PLAIN else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "textMode": "value",
        "wideLayout": True,
    }
    return panel("stat", title, unit, description, empty, [target(0, text, instant=True, range=False)], options, width, height, thresholds, **more)


def series(title, unit, queries, description, empty, width=8, height=7, stacked=False, limit=None, log=False, from_zero=True, **more):
    """Lines over time. `queries` are PromQL and legend; `limit` are thresholds to be drawn as lines."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 10,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limit else "off"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [target(index, text, legendFormat=legend, range=True) for index, (text, legend) in enumerate(queries)]
    out = panel("timeseries", title, unit, description, empty, targets, options, width, height, limit or PLAIN, custom=custom, **({"min": 0} if from_zero else {}), **more)
    out["fieldConfig"]["defaults"]["color"] = {"mode": "palette-classic"}
    return out


def table(title, labels, columns, description, empty, width=12, height=8, **more):
    """A row for each combination of `labels` (name and heading), with `columns`: PromQL, heading, unit, and perhaps thresholds and words."""
    targets = [target(index, column[0], format="table", instant=True, range=False) for index, column in enumerate(columns)]
    name = (lambda index: "Value") if len(columns) == 1 else (lambda index: f"Value #{chr(ord('A') + index)}")
    # `Value` is also the only column that has anything.
    headings = {**labels, "Value": columns[0][1], **{name(index): column[1] for index, column in enumerate(columns)}}
    overrides = []
    for _, heading, unit, *colours in columns:
        properties = [{"id": "unit", "value": unit}, {"id": "noValue", "value": "–"}]
        if colours:
            properties += [{"id": "thresholds", "value": colours[0]}, {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
        if colours[1:]:
            properties.append({"id": "mappings", "value": colours[1]})
        overrides.append({"matcher": {"id": "byName", "options": heading}, "properties": properties})
    options = {"showHeader": True, "cellHeight": "sm"}
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    out = panel("table", title, "short", description, empty, targets, options, width, height, custom=custom, overrides=overrides, **more)
    out["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate(headings)},
                "renameByName": headings,
            },
        },
    ]
    return out


def variable(name, metric, **more):
    text = f"label_values({metric}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": text, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        # When the time range changes: what is gone from it is gone from the list.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
        **more,
    }


def dashboard(name, title, description, since, rows):
    """`rows` of panels; a text between them is the heading of what follows. Panels that do not fit beside each other go on below."""
    panels, y = [], 0
    for row in rows:
        if isinstance(row, str):
            heading = {"type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
            panels, y = [*panels, heading], y + 1
            continue
        x = height = 0
        for one in row:
            place = one["gridPos"]
            if x + place["w"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place["x"], place["y"] = x, y
            x, height = x + place["w"], max(height, place["h"])
        panels, y = panels + row, y + height
    for index, one in enumerate(panels):
        one["id"] = index + 1
    info = "atlas_sidecar_build_info"
    return name, {
        "uid": f"atlas-sidecar-{name}",
        "title": f"Atlas sidecar / {title}",
        "description": description,
        "tags": ["atlas-sidecar"],
        "editable": False,
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": f"now-{since}", "to": "now"},
        "timezone": "browser",
        "refresh": "1m",
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Atlas sidecar",
                "tags": ["atlas-sidecar"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "refresh": 1,
                    "hide": 0,
                    "multi": False,
                    "includeAll": False,
                },
                # All jobs are those of sidecars, not everything that Prometheus scrapes: `up` and `node_…` are not only ours.
                variable("job", info),
                variable("instance", f'{info}{{job=~"$job"}}', allValue=".+"),
            ]
        },
        "panels": panels,
    }


def text(made):
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"
