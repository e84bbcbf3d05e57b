"""What is shipped for deploying keeps key, state and anchor apart from the data, and its policy is one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.proof.support import signer

from skillaudit.consumer.notary import kept_too_near
from skillaudit.contract.settings import Settings
from skillaudit.proof.keys import lies_in
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy, read_policy

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "deploy" / "audit-policy.toml"
MINIMUM_DAYS = 183
_SETTING = re.compile(r"^[# ]*(?:Environment=)?SKILLAUDIT_(\w+)(?:=|: )\"?([^\s\"]+)\"?$", re.MULTILINE)


def test_the_shipped_policy_asks_for_six_months():
    """As it is shipped it needs no key: then nothing but the minimum age and the anchors' age is asked for."""
    assert read_policy(POLICY) == Policy(min_retention_days=MINIMUM_DAYS, anchor_age_s_max=7200)


def test_what_it_holds_commented_out_is_a_policy_too(tmp_path):
    """All of it, with a key and an anchor that are there."""
    (tmp_path / "anchor").mkdir()
    text = re.sub(r"^#(?=\w+ = |\[\[)", "", POLICY.read_text(), flags=re.MULTILINE)
    key = signer().verifier.text
    text = text.replace("audit.example.org/fleet-1+00000000+...", key).replace(
        "/mnt/worm/audit", str(tmp_path / "anchor")
    )
    (tmp_path / "policy.toml").write_text(text)
    assert read_policy(tmp_path / "policy.toml") == Policy(
        grade=Grade.ANCHORED,
        keys=(key,),
        min_retention_days=MINIMUM_DAYS,
        expected_hosts=("agent-1", "agent-2"),
        anchors=(AnchorPolicy(f"file:{tmp_path / 'anchor'}", "other"),),
        control_log=True,
    )


@pytest.mark.parametrize("name", ["compose.yaml", "deploy/skillaudit-consume.service"])
def test_key_state_and_anchor_lie_outside_the_data(name):
    """With what needs a secret in force, too; and the minimum is the policy's."""
    text = (ROOT / name).read_text()
    consumer = text.partition("\n  consumer:\n")[2] or text
    found = {key.lower(): value for key, value in _SETTING.findall(consumer) if "host:port" not in value}
    settings = Settings.load(found | {"http_allow_hosts": ""}, environ={})
    assert settings.seal_key_file is not None
    assert kept_too_near(settings) == []
    assert kept_too_near(replace(settings, seal_state_file=None)) != []
    assert settings.anchors.startswith("file:/")
    assert not lies_in(Path(settings.anchors.removeprefix("file:")), settings.data)
    assert settings.min_retention_days == MINIMUM_DAYS
