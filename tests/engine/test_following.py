"""A job's log through connections that break, at a dashboard that does what Ray's does."""

import pytest

from tests.engine.dashboards import FakeDashboard, serve
from tests.storage.ports import free_port
from vqpipe.engine import following
from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.following import Listener, follow
from vqpipe.errors import ConfigError, IncompleteError

LOG = "".join(f"line {number} \N{SNOWMAN}\n" for number in range(40))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No address and no token of this machine's person, and no pauses."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(following, "_LEAST_PAUSE_S", 0.001)


@pytest.fixture
def fake():
    with serve(FakeDashboard()) as dashboard:
        dashboard.log = LOG
        yield dashboard


class Heard:
    """What was shown and said, and what happens then."""

    def __init__(self, patience_s=60.0, on_log=lambda _: None, on_word=lambda _: None):
        self.log, self.words = "", []
        self._then = on_log, on_word
        self.listener = Listener(self._hear, self._hear_word, patience_s)

    def _hear(self, text):
        self.log += text
        self._then[0](self.log)

    def _hear_word(self, word):
        self.words.append(word)
        self._then[1](word)


def over(fake, status="SUCCEEDED", exit_code=0):
    fake.status, fake.exit_code = status, exit_code


@pytest.mark.parametrize("drops", [False, True])
def test_follow_tails_that_end_early_shows_every_character_once(fake, drops):
    fake.sizes, fake.drops = [0, 5, 100, 100, 300, 3], drops
    heard = Heard(on_log=lambda log: over(fake) if log == LOG else None)
    job = follow(Dashboard(fake.url), "job", heard.listener)
    assert heard.log == LOG
    assert (job.code, heard.words) == (0, [])


def test_follow_log_that_grows_after_each_end_shows_what_is_new(fake):
    fake.log = LOG[:10]

    def grow(log):
        fake.log = LOG[: len(log) + 17]
        if fake.log == LOG:
            over(fake, "FAILED", 3)

    heard = Heard(on_log=grow)
    job = follow(Dashboard(fake.url), "job", heard.listener)
    assert heard.log == LOG
    assert job.code == 3


def test_follow_other_answers_for_a_while_says_so_once_and_when_it_is_back(fake):
    fake.refusals = [502, 503, 404, 502]
    heard = Heard(on_word=lambda word: over(fake) if "again" in word else None)
    job = follow(Dashboard(fake.url), "job", heard.listener)
    assert (job.state, heard.log) == ("succeeded", LOG)
    assert ["does not answer (the answer is 502)" in each for each in heard.words] == [True, False]
    assert heard.words[1] == f"{fake.url} answers again"


def test_follow_connection_that_falls_silent_is_looked_after(fake, monkeypatch):
    monkeypatch.setattr(following, "_SILENCE_S", 0.05)
    fake.is_silent = True
    fake.log = LOG[:100]
    heard = Heard(on_log=lambda _: (setattr(fake, "log", LOG), over(fake)))
    assert follow(Dashboard(fake.url), "job", heard.listener).code == 0
    assert heard.log == LOG


def test_follow_dashboard_that_is_gone_is_incomplete_after_the_patience():
    fake = FakeDashboard()
    with serve(fake):
        dashboard = Dashboard(fake.url)
    heard = Heard(patience_s=0.05)
    with pytest.raises(IncompleteError, match="run the same command on another cluster") as caught:
        follow(dashboard, "job", heard.listener)
    assert caught.value.exit_code == 2
    assert f"vqpipe logs job --address {fake.url}" in caught.value.message
    assert len(heard.words) == 1


def test_follow_cluster_that_was_started_anew_is_incomplete(fake):
    fake.knows_job = False
    with pytest.raises(IncompleteError, match="started anew"):
        follow(Dashboard(fake.url), "job", Heard().listener)


def test_follow_token_that_is_refused_by_now_is_a_config_error(fake):
    dashboard = Dashboard(fake.url)
    fake.refusals = [403]
    with pytest.raises(ConfigError, match="does not accept this machine's Ray token"):
        follow(dashboard, "job", Heard().listener)


def test_follow_log_that_cannot_be_read_says_so_and_ends_with_the_jobs_code(fake):
    fake.log_code, fake.sizes = 500, [20]
    over(fake, "FAILED", 5)
    heard = Heard()
    assert follow(Dashboard(fake.url), "job", heard.listener).code == 5
    assert heard.log == LOG[:20]
    assert "the rest of the log cannot be had" in heard.words[0]


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 4, 4),
        ("FAILED", -9, 137),  # as a shell has it
        ("FAILED", None, 2),  # its node is lost
        ("STOPPED", None, 2),
    ],
)
def test_follow_job_that_is_over_ends_with_what_says_so(fake, status, exit_code, code):
    over(fake, status, exit_code)
    assert follow(Dashboard(fake.url), "job", Heard().listener).code == code


def test_follow_from_what_is_known_shows_the_rest(fake):
    over(fake)
    heard = Heard()
    follow(Dashboard(fake.url), "job", heard.listener, shown=77)
    assert heard.log == LOG[77:]


def test_dashboard_asked_for_wins_over_the_environment(fake, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    assert Dashboard(fake.url + "/").url == fake.url
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", fake.url)
    assert Dashboard(None).url == fake.url
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://name:secret@head:8265")
    with pytest.raises(ConfigError, match="RAY_API_SERVER_ADDRESS holds credentials") as caught:
        Dashboard(None)
    assert "secret" not in caught.value.message


def test_dashboard_that_is_none_is_a_config_error_with_advice():
    with pytest.raises(ConfigError, match="http://head:8265"):
        Dashboard(f"http://127.0.0.1:{free_port()}")
