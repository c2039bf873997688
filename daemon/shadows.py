"""Shadow accounts: other accounts on the same feed, each with a target and a ledger of its own.

They show what a yardstick or another model would have earned in the same bars and the same books.
Every decision of all accounts is committed in one transaction: none falls behind. An account
knows nothing of the others: each meets a recorded book as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from broker.records import DecisionRecord
from broker.store import Store
from daemon.decide import decide
from daemon.decision import DecisionInputs, DecisionRules, DecisionState, Effects, Target
from daemon.deployment import check_fits
from daemon.journal import Journal
from daemon.recovery import check_symbols, open_if_new, restore_state
from daemon.settings import Settings, SettingsError, ShadowSettings
from daemon.signal_desk import SignalDesk
from daemon.targets import (
    CashTarget,
    EqualWeightTarget,
    HoldTarget,
    PolicyTarget,
    informed,
    row_time,
)
from daemon.totals import Totals, totals_of
from market.features import WARMUP_BARS
from market.panel import Int64Array
from training.artefact import ArtefactRejected
from training.inference import load_policy
from training.registry import Registry, UnknownModel

REASON = "a shadow account"


@dataclass(slots=True, kw_only=True)
class Shadow:
    """One account between two decisions."""

    account_id: str
    target: Target
    state: DecisionState
    deposit_quote: float
    totals: Totals = field(default_factory=Totals)


class Shadows:
    """Every shadow account of a run; none is the usual case."""

    def __init__(self, accounts: list[Shadow], *, signals: SignalDesk) -> None:
        """Take up accounts where the ledger has them; see ``open_shadows``."""
        self.accounts = accounts
        self._signals = signals

    @property
    def required_bars(self) -> int:
        """Bars of history that their targets read."""
        policies = [one.target for one in self.accounts if isinstance(one.target, PolicyTarget)]
        return max([WARMUP_BARS, *(one.policy.required_bars for one in policies)])

    def targets(self, decision_times: Int64Array, *, hold: bool = False) -> list[Target]:
        """Return what names the weights of each account, with the signals that it reads.

        Args:
            decision_times: (T,) closes of the bars that are decided on, ascending.
            hold: whether every account holds: after three crashes any of them may be the cause.

        Raises:
            WarehouseError: the signals could not be read.
        """
        if hold:
            return [HoldTarget()] * len(self.accounts)
        return [informed(one.target, decision_times, self._signals.join) for one in self.accounts]

    def decide(
        self, inputs: DecisionInputs, targets: Sequence[Target], rules: DecisionRules
    ) -> list[tuple[DecisionState, Effects]]:
        """Decide for each account on what the main account's decision knew.

        Where the main decision was missed, theirs are: nobody was there for them either.

        Args:
            inputs: of the main account.
            targets: as ``self.targets`` returned them for this decision.
            rules: of every account.
        """
        decided = []
        for one, target in zip(self.accounts, targets, strict=True):
            own = replace(inputs, target=target)
            if inputs.target is None:
                own = inputs
            elif not isinstance(target, HoldTarget):
                own = replace(own, reason=REASON)
            decided.append(decide(one.state, own, rules))
        return decided

    def move_on(self, decided: Sequence[tuple[DecisionState, Effects]]) -> None:
        """Go on from what ``decide`` returned, which is stored now."""
        for one, (state, effects) in zip(self.accounts, decided, strict=True):
            one.state = state
            one.totals = one.totals.plus(effects)


def open_shadows(
    settings: Settings,
    store: Store,
    registry: Registry,
    journal: Journal,
    *,
    main: DecisionRecord | None,
    opened_at: int,
    rules: DecisionRules,
    signals: SignalDesk,
) -> Shadows:
    """Open new shadow accounts and take the others up where the main account stands. Blocks.

    Args:
        settings: ``shadows`` names them.
        store: the ledger of all accounts.
        registry: where a shadow's model is.
        journal: told about an account that is opened.
        main: the main account's last decision; ``None`` before the first.
        opened_at: UTC milliseconds, the close before a new account's first decision.
        rules: of every account.
        signals: joins what a policy reads.

    Raises:
        SettingsError: an account stands elsewhere than the main one, holds a symbol that is no
            longer followed, or its model is unusable.
    """
    targets = [_target(one, settings, registry) for one in settings.shadows]
    accounts = []
    for one, target in zip(settings.shadows, targets, strict=True):
        deposit = one.deposit_quote or settings.account.deposit_quote
        open_if_new(
            store,
            journal,
            account_id=one.id,
            deposit=Decimal(str(deposit)),
            quote=rules.quote,
            time=opened_at,
            market=rules.market,
        )
        state, last = restore_state(store, one.id, sigma_window_bars=rules.sigma_window_bars)
        if last is not None and (main is None or last.decision_time != main.decision_time):
            ours = "never" if main is None else f"at {row_time(main.decision_time)}"
            raise SettingsError(
                f"shadows: account {one.id} was last decided at {row_time(last.decision_time)}, "
                f"{settings.account.id} {ours}; give the shadow another id"
            )
        check_symbols(settings, state.account)
        accounts.append(
            Shadow(
                account_id=one.id,
                target=target,
                state=state,
                deposit_quote=deposit,
                totals=totals_of(store.decisions(one.id), fills=store.count_fills(one.id)),
            )
        )
    return Shadows(accounts, signals=signals)


def _target(one: ShadowSettings, settings: Settings, registry: Registry) -> Target:
    if one.model is None:
        gross = 0.95 * settings.account.leverage_limit
        return CashTarget() if one.target == "cash" else EqualWeightTarget(gross=gross)
    try:
        policy = load_policy(registry.model(one.model).artefact_path)
        check_fits(policy, settings)
    except (UnknownModel, ArtefactRejected, ValueError) as error:
        raise SettingsError(f"shadows: model {one.model!r} of account {one.id}: {error}") from error
    return PolicyTarget(policy=policy)
