"""Who may use the desk: passwords, lock-out, sessions and tokens, on both databases."""

from datetime import timedelta

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select, update

from tests.alerts import NOON
from warehouse import analysts
from warehouse.analysts import (
    LOCKED_FOR,
    WRONG_IN_A_ROW,
    add_analyst,
    change_role,
    check_password,
    disable_analyst,
    enable_analyst,
    find_analyst,
    list_analysts,
    set_password,
)
from warehouse.api_tokens import add_token, find_holder, list_tokens, revoke_token
from warehouse.audit_trail import list_events
from warehouse.errors import UserError
from warehouse.queue_tables import ANALYSTS, API_TOKENS, SESSIONS
from warehouse.sessions import (
    SessionLimits,
    end_session,
    find_session,
    hash_token,
    is_due,
    note_use,
    start_session,
)

PASSWORD = "correct horse battery"  # noqa: S105 - of people who live as long as a test
OTHER = "staple correct horse"
LIMITS = SessionLimits(idle=timedelta(minutes=30), absolute=timedelta(hours=12))


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    """Hash as the desk does, with less work."""
    cheap = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(analysts, "hasher", lambda: cheap)
    analysts.hash_of_nothing.cache_clear()
    yield
    analysts.hash_of_nothing.cache_clear()


@pytest.fixture
def ada(queue):
    add_analyst(queue, "ada", "analyst", PASSWORD, "root")
    return find_analyst(queue, "ada")


def actions(queue):
    return [event.action for event in reversed(list_events(queue, limit=100))]


def stored_hash(queue):
    with queue.database.read() as connection:
        return connection.scalar(select(ANALYSTS.c.password_hash))


def test_password_lets_in_whom_it_fits(queue, ada):
    assert check_password(queue, "ada", PASSWORD) == ada
    assert check_password(queue, "ada", OTHER) is None
    assert check_password(queue, "bob", PASSWORD) is None
    assert check_password(queue, "ADA", PASSWORD) is None


def test_password_is_kept_as_an_argon2id_hash_alone(queue, ada):
    assert ada.has_password
    assert stored_hash(queue).startswith("$argon2id$")
    assert PASSWORD not in stored_hash(queue)
    assert "password_hash" not in vars(ada)


def test_password_is_the_same_from_every_keyboard(queue):
    add_analyst(queue, "zoe", "viewer", "cafe\u0301 au lait, s.v.p.", "root")
    assert check_password(queue, "zoe", "caf\u00e9 au lait, s.v.p.")


@pytest.mark.parametrize("password", ["", "eleven char", "x" * 1025])
@pytest.mark.usefixtures("ada")
def test_password_too_short_or_too_long_is_refused_without_telling_it(queue, password):
    with pytest.raises(UserError, match=f"got {len(password)}") as refused:
        set_password(queue, "ada", password, "root")
    assert not password or password not in str(refused.value)
    assert check_password(queue, "ada", PASSWORD)


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a/b", "é", "a\n", "a\x00", "<b>", "'--"])
def test_name_that_could_be_mistaken_is_refused(queue, name):
    with pytest.raises(UserError, match="expected a name"):
        add_analyst(queue, name, "viewer", None, "root")
    assert check_password(queue, name, PASSWORD) is None  # no error of the database, either
    assert find_analyst(queue, name) is None


def test_name_is_given_once(queue, ada):
    with pytest.raises(UserError, match="that nobody has"):
        add_analyst(queue, "ada", "admin", OTHER, "root")
    assert list_analysts(queue) == [ada]


@pytest.mark.parametrize("other", ["Ada", "ADA", "aDa"])
def test_name_that_differs_in_case_alone_is_refused(queue, ada, other):
    with pytest.raises(UserError, match=f"got '{other}' beside 'ada'"):
        add_analyst(queue, other, "admin", OTHER, "root")
    assert list_analysts(queue) == [ada]
    assert actions(queue) == ["add_analyst"]


@pytest.mark.usefixtures("ada")
def test_unknown_role_or_analyst_is_refused(queue):
    with pytest.raises(UserError, match="expected a role"):
        change_role(queue, "ada", "root", "root")
    for change in (disable_analyst, enable_analyst):
        with pytest.raises(UserError, match="expected the name of an analyst"):
            change(queue, "bob", "root")


def test_fifth_wrong_password_in_a_row_locks_for_a_quarter_of_an_hour(queue, ada, clock):
    for _ in range(WRONG_IN_A_ROW):
        assert check_password(queue, "ada", OTHER) is None
    assert find_analyst(queue, "ada").locked_until == NOON + LOCKED_FOR
    assert check_password(queue, "ada", PASSWORD) is None
    clock.now += LOCKED_FOR - timedelta(seconds=1)
    assert check_password(queue, "ada", PASSWORD) is None
    clock.advance(seconds=1)
    assert check_password(queue, "ada", PASSWORD) == ada


@pytest.mark.usefixtures("ada")
def test_right_password_starts_the_count_anew(queue):
    for _ in range(3):
        for _ in range(WRONG_IN_A_ROW - 1):
            check_password(queue, "ada", OTHER)
        assert check_password(queue, "ada", PASSWORD)


@pytest.mark.usefixtures("ada")
def test_new_password_or_enabling_unlocks(queue):
    for unlock in (lambda: set_password(queue, "ada", OTHER, "root"), None):
        for _ in range(WRONG_IN_A_ROW):
            check_password(queue, "ada", "wrong wrong wrong")
        (unlock or (lambda: enable_analyst(queue, "ada", "root")))()
        assert check_password(queue, "ada", OTHER)


@pytest.mark.usefixtures("ada")
def test_disabled_analyst_is_not_let_in(queue):
    disable_analyst(queue, "ada", "root")
    assert check_password(queue, "ada", PASSWORD) is None
    enable_analyst(queue, "ada", "root")
    assert check_password(queue, "ada", PASSWORD)


def test_analyst_without_a_password_is_not_let_in_by_any(queue):
    add_analyst(queue, "proxied", "viewer", None, "root")
    assert check_password(queue, "proxied", "") is None
    assert check_password(queue, "proxied", "None") is None
    assert find_analyst(queue, "proxied").locked_until is None


@pytest.mark.usefixtures("ada")
def test_old_hash_is_renewed_when_the_password_is_known(queue, monkeypatch):
    old = stored_hash(queue)
    stronger = PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)
    monkeypatch.setattr(analysts, "hasher", lambda: stronger)
    assert check_password(queue, "ada", OTHER) is None
    assert stored_hash(queue) == old
    assert check_password(queue, "ada", PASSWORD)
    assert stored_hash(queue) != old
    assert "t=2" in stored_hash(queue)
    assert check_password(queue, "ada", PASSWORD)


@pytest.mark.usefixtures("ada")
def test_unknown_name_takes_as_many_hashes_as_a_known_one(queue, monkeypatch):
    checked = []
    real = analysts.is_fitting
    monkeypatch.setattr(analysts, "is_fitting", lambda *w: checked.append(w) or real(*w))
    for name in ("ada", "bob", "proxied"):
        check_password(queue, name, OTHER)
    assert len(checked) == 3
    assert all(stored.startswith("$argon2id$") for stored, _ in checked)


@pytest.mark.usefixtures("ada")
def test_audit_tells_what_was_done_and_never_a_password(queue):
    check_password(queue, "ada", "wrong but secret", address="192.0.2.1")
    check_password(queue, "password typed as a name", "x", address="192.0.2.1")
    set_password(queue, "ada", OTHER, "root")
    change_role(queue, "ada", "lead", "root")
    token = add_token(queue, "feed", "ada", ["feed"], days=3, actor="root")
    begun = start_session(queue, find_analyst(queue, "ada"), LIMITS, address="192.0.2.1")
    end_session(queue, begun.token, "ada")
    disable_analyst(queue, "ada", "root")
    assert actions(queue) == [
        "add_analyst",
        "sign_in_failed",
        "sign_in_failed",
        "set_password",
        "change_role",
        "add_token",
        "sign_in",
        "sign_out",
        "disable_analyst",
        "revoke_token",
    ]
    told = repr(list_events(queue, limit=100))
    secrets = (PASSWORD, OTHER, "wrong but secret", "password typed", token, begun.token)
    assert not [text for text in (*secrets, begun.csrf_token, "argon2") if text in told]
    assert "192.0.2.1" in told
    assert queue.verify_audit() is None


def test_session_is_found_by_its_token_alone(queue, ada):
    begun = start_session(queue, ada, LIMITS)
    found = find_session(queue, begun.token, LIMITS)
    assert (found.name, found.role, found.csrf_token) == ("ada", "analyst", begun.csrf_token)
    assert find_session(queue, begun.token + "x", LIMITS) is None
    with queue.database.read() as connection:
        stored = connection.scalar(select(SESSIONS.c.token_hash))
    assert stored == hash_token(begun.token)
    assert find_session(queue, stored, LIMITS) is None


def test_tokens_are_long_and_never_the_same(queue, ada):
    begun = [start_session(queue, ada, LIMITS) for _ in range(3)]
    made = [text for each in begun for text in (each.token, each.csrf_token)]
    assert len(set(made)) == 6
    assert min(map(len, made)) >= 43  # 256 bits in base64


def test_session_ends_when_idle_and_in_any_case_at_last(queue, ada, clock):
    begun = start_session(queue, ada, LIMITS)
    clock.now += LIMITS.idle
    assert find_session(queue, begun.token, LIMITS) is None
    clock.now = NOON
    used_until = NOON + LIMITS.absolute - timedelta(minutes=1)
    while clock.now < used_until:
        assert find_session(queue, begun.token, LIMITS)
        note_use(queue, begun.token)
        clock.advance(minutes=29)
    clock.now = NOON + LIMITS.absolute
    note_use(queue, begun.token)
    assert find_session(queue, begun.token, LIMITS) is None


def test_use_is_noted_at_most_once_a_minute(queue, ada):
    begun = start_session(queue, ada, LIMITS)
    session = find_session(queue, begun.token, LIMITS)
    assert not is_due(session, NOON + timedelta(seconds=59), LIMITS)
    assert is_due(session, NOON + timedelta(seconds=60), LIMITS)
    short = SessionLimits(idle=timedelta(minutes=1), absolute=timedelta(hours=1))
    assert is_due(session, NOON + timedelta(seconds=6), short)


def test_sign_in_ends_the_session_before_and_clears_what_ended(queue, ada, clock):
    ended = start_session(queue, ada, LIMITS)
    clock.advance(hours=1)
    before = start_session(queue, ada, LIMITS)
    after = start_session(queue, ada, LIMITS, instead_of=before.token)
    assert find_session(queue, before.token, LIMITS) is None
    assert find_session(queue, after.token, LIMITS)
    with queue.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(SESSIONS)) == 1
    assert find_session(queue, ended.token, LIMITS) is None


@pytest.mark.parametrize("change", ["password", "disable", "sign_out"])
def test_session_ends_at_once(queue, ada, change):
    add_analyst(queue, "eve", "viewer", None, "root")
    others = start_session(queue, find_analyst(queue, "eve"), LIMITS)
    begun = start_session(queue, ada, LIMITS)
    if change == "password":
        set_password(queue, "ada", OTHER, "root")
    elif change == "disable":
        disable_analyst(queue, "ada", "root")
        enable_analyst(queue, "ada", "root")
    else:
        end_session(queue, begun.token, "ada")
    assert find_session(queue, begun.token, LIMITS) is None
    assert find_session(queue, others.token, LIMITS)


def test_new_role_holds_in_sessions_and_tokens_that_there_are(queue, ada):
    begun = start_session(queue, ada, LIMITS)
    token = add_token(queue, "feed", "ada", ["feed"], days=None, actor="root")
    change_role(queue, "ada", "viewer", "root")
    assert find_session(queue, begun.token, LIMITS).role == "viewer"
    assert find_holder(queue, token).role == "viewer"


@pytest.mark.usefixtures("ada")
def test_token_stands_for_its_analyst_until_it_ends(queue, clock):
    token = add_token(queue, "case-system", "ada", ["read", "feed"], days=2, actor="root")
    assert token.startswith("nw_")
    holder = find_holder(queue, token)
    assert (holder.name, holder.role, holder.scopes) == ("ada", "analyst", {"read", "feed"})
    assert find_holder(queue, token[:-1]) is None
    clock.advance(days=2)
    assert find_holder(queue, token) is None


@pytest.mark.usefixtures("ada")
def test_token_holds_no_longer_when_revoked_or_its_analyst_disabled(queue):
    revoked, orphaned = (
        add_token(queue, name, "ada", ["read"], days=None, actor="root") for name in ("a", "b")
    )
    revoke_token(queue, "a", "root")
    revoke_token(queue, "a", "root")
    assert (find_holder(queue, revoked), find_holder(queue, orphaned) is None) == (None, False)
    assert actions(queue).count("revoke_token") == 1
    disable_analyst(queue, "ada", "root")
    assert find_holder(queue, orphaned) is None


@pytest.mark.usefixtures("ada")
def test_enabling_again_brings_back_no_token(queue, clock):
    add_analyst(queue, "eve", "viewer", None, "root")
    of_eve = add_token(queue, "eves", "eve", ["read"], days=None, actor="root")
    tokens = [add_token(queue, n, "ada", ["read"], days=None, actor="root") for n in ("a", "b")]
    revoke_token(queue, "a", "root")
    clock.advance(hours=1)
    disable_analyst(queue, "ada", "boss")
    enable_analyst(queue, "ada", "boss")
    assert [find_holder(queue, token) for token in tokens] == [None, None]
    assert find_holder(queue, of_eve).name == "eve"
    revoked = {token.name: token.revoked_at for token in list_tokens(queue)}
    assert revoked == {"a": NOON, "b": clock.now, "eves": None}
    disabled, token, enabled = list_events(queue, limit=3)[::-1]
    assert (disabled.action, disabled.subject) == ("disable_analyst", "analyst ada")
    assert (token.action, token.subject, token.actor) == ("revoke_token", "token b", "boss")
    assert enabled.action == "enable_analyst"
    assert queue.verify_audit() is None


@pytest.mark.usefixtures("ada")
def test_session_of_somebody_disabled_since_the_password_was_checked_never_begins(queue):
    checked = check_password(queue, "ada", PASSWORD)
    disable_analyst(queue, "ada", "root")
    assert start_session(queue, checked, LIMITS) is None
    enable_analyst(queue, "ada", "root")
    with queue.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(SESSIONS)) == 0
    assert "sign_in" not in actions(queue)


@pytest.mark.usefixtures("ada")
def test_token_is_kept_as_a_hash(queue):
    token = add_token(queue, "a", "ada", ["read"], days=None, actor="root")
    with queue.database.read() as connection:
        row = connection.execute(select(API_TOKENS)).one()
    assert token not in repr(row)


@pytest.mark.usefixtures("ada")
def test_token_with_wrong_arguments_is_refused(queue):
    add_token(queue, "a", "ada", ["read"], days=None, actor="root")
    for name, analyst, scopes, why in (
        ("a", "ada", ["read"], "no token has had"),
        ("b", "bob", ["read"], "name of an analyst"),
        ("b", "ada", [], "got none"),
        ("b", "ada", ["root"], "got root"),
        ("b c", "ada", ["read"], "expected a name"),
    ):
        with pytest.raises(UserError, match=why):
            add_token(queue, name, analyst, scopes, days=None, actor="root")
    with pytest.raises(UserError, match="name of a token"):
        revoke_token(queue, "b", "root")


@pytest.mark.usefixtures("ada")
def test_password_that_fits_while_the_account_is_locked_meanwhile_lets_nobody_in(
    queue, monkeypatch
):
    real = analysts.is_fitting

    def lock_meanwhile(*words):
        with queue.database.write() as connection:
            connection.execute(update(ANALYSTS).values(locked_until=NOON + LOCKED_FOR))
        return real(*words)

    monkeypatch.setattr(analysts, "is_fitting", lock_meanwhile)
    assert check_password(queue, "ada", PASSWORD) is None
