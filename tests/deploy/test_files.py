"""The files of deploy/ are well-formed and refer only to things that the daemon has."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS = TOP / "deploy/prometheus"
DASHBOARD = TOP / "deploy/grafana/dashboards/david.json"
METRICS = TOP / "server/metrics.def"


def expressions():
    """Every PromQL expression in the alert rules and the dashboard, with its place."""
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def metric_of(name):
    """Without the suffix of a histogram's series."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize("kind, file", [("config", "prometheus.yml"), ("rules", "rules.yml")])
def test_prometheus_takes_its_files(kind, file):
    done = subprocess.run(["promtool", "check", kind, PROMETHEUS / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_fire_on_trouble_and_not_without_it(tmp_path):
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    shutil.copy(TOP / "tests/deploy/rules_test.yml", tmp_path)
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "rules_test.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried():
    rules = [rule["alert"] for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    for case in yaml.safe_load((TOP / "tests/deploy/rules_test.yml").read_text())["tests"]:
        assert [test["alertname"] for test in case["alert_rule_test"]] == rules, case["name"]


@pytest.mark.parametrize("where, expr", expressions())
def test_every_query_names_metrics_of_the_daemon(where, expr):
    known = set(re.findall(r'^METRIC\(\w+, "(\w+)"', METRICS.read_text(), re.M))
    names = set(re.findall(r"\b(?:david|process)_[a-z_]+", expr))
    assert names or expr.startswith("up{"), f"{where} asks for no metric"
    assert {metric_of(name) for name in names} <= known, f"{where} asks for what server/metrics.def lacks"


def test_every_alert_says_what_is_wrong_and_how_bad_it_is():
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert "instance" in rule["annotations"]["summary"]


def test_compose_mounts_files_that_exist():
    compose = yaml.safe_load((TOP / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (TOP / source).exists(), f"{name} mounts {source}"
            else:
                assert source in compose["volumes"], f"{name} mounts the unknown volume {source}"
        assert "image" in service or "build" in service


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
@pytest.mark.parametrize("profile, services", [(None, {"david", "prometheus", "grafana"}), ("gpu", {"david-gpu"})])
def test_compose_takes_its_file(profile, services):
    chosen = ["--profile", profile] if profile else []
    done = subprocess.run(["docker-compose", "-f", TOP / "compose.yaml", *chosen, "config", "--services"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert services <= set(done.stdout.split())


def test_prometheus_scrapes_a_name_that_compose_gives():
    compose = yaml.safe_load((TOP / "compose.yaml").read_text())
    aliases = {
        alias
        for service in compose["services"].values()
        for alias in service.get("networks", {}).get("default", {}).get("aliases", [])
    }
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    targets = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert [target.split(":")[0] in aliases for target in targets] == [True]


def test_dockerfile_copies_files_that_exist():
    text = (TOP / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for source in line.split()[:-1]:
            assert (TOP / source).exists(), source
    for target in ("cpu", "cuda"):
        stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM|\Z)", text, re.M | re.S)
        assert stage and "USER david" in stage[1], f"{target} runs as root"
    assert "STOPSIGNAL SIGTERM" in text and "HEALTHCHECK" in text


def test_every_bundled_photograph_has_its_source_and_licence():
    rows = [line.split("\t") for line in (TOP / "deploy/photos/SOURCES.tsv").read_text().splitlines()]
    licences = {row[0]: row[4] for row in rows[1:]}
    photos = {p.name for p in (TOP / "deploy/photos").glob("*.jpg")} - {"before-after.jpg"}
    assert photos and photos == set(licences)
    assert all(licences.values())
    assert (TOP / "deploy/photos/before-after.jpg").stat().st_size < 500_000
