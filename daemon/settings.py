"""Settings: one TOML file, checked strictly, with embedded defaults where there is no file.

Every error names the key, the value and what was expected, so that it can be printed on one line.
Secrets are never read from the file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from daemon.schedule import check_crontab
from market.bar import interval_ms
from market.feature_table import DEFAULT_FEATURES, selected
from market.instrument import Market, Venue
from market.signals import SignalColumn
from market.store_fault import WarehouseError
from market.store_url import parse_store_url

DEFAULT_SYMBOLS = (
    "BTC/USDT:USDT",
    "ETH/USDT:USDT",
    "SOL/USDT:USDT",
    "XRP/USDT:USDT",
    "ADA/USDT:USDT",
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class SettingsError(Exception):
    """A setting is missing, unknown or wrong; the message is one line for a person."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ExchangeSettings(_Section):
    """Which venue's public market data is read, and for which instruments."""

    name: Venue = Venue.BINANCEUSDM
    base_url: str | None = None
    symbols: tuple[str, ...] = Field(default=DEFAULT_SYMBOLS, min_length=1)
    interval: str = "1h"
    history_days: int = Field(default=730, ge=30)
    close_deadline_seconds: Positive = 20.0
    book_depth: int = Field(default=20, ge=0, le=500)
    max_lateness_seconds: Positive = 60.0

    @model_validator(mode="before")
    @classmethod
    def _symbols_of_the_venue(cls, values: Any) -> Any:
        """Without symbols of its own a spot venue gets the same assets as pairs."""
        spot = {venue.value for venue in Venue if venue.market is Market.SPOT}
        if isinstance(values, dict) and "symbols" not in values and values.get("name") in spot:
            return values | {"symbols": tuple(one.split(":")[0] for one in DEFAULT_SYMBOLS)}
        return values

    @field_validator("interval")
    @classmethod
    def _interval_is_readable(cls, value: str) -> str:
        interval_ms(value)
        return value

    @field_validator("symbols")
    @classmethod
    def _symbols_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a symbol is named twice")
        return value

    @property
    def interval_ms(self) -> int:
        """Length of a bar, milliseconds."""
        return interval_ms(self.interval)


class SandboxSettings(_Section):
    """The simulated venue that ``ballast run`` starts for itself when ``enabled``."""

    enabled: bool = False
    synthetic_seed: int = Field(default=7, ge=0)
    edge: float = Field(default=1.0, ge=0)
    data: Path | None = None
    start: str | None = None
    speed: float = Field(default=3600.0, ge=0)
    lock_step: bool = True


class AccountSettings(_Section):
    """The paper account."""

    id: str = Field(default="main", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    deposit_quote: Positive = 10_000.0
    fallback: Literal["cash", "equal_weight"] = "cash"
    leverage_limit: Positive = 1.0
    no_trade_band: Annotated[float, Field(ge=0, lt=1)] = 0.0
    latency_ms: int = Field(default=1_000, ge=1, lt=60_000)
    allow_short: bool = False
    fills: Literal["auto", "book", "modelled"] = "auto"
    participation_cap: Positive = 0.1
    slippage_cap: Annotated[float, Field(gt=0, lt=1)] = 0.01
    margin_tiers: Path | None = None


class ShadowSettings(_Section):
    """Another account on the same feed, with a target of its own: a yardstick or a model."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    target: Literal["cash", "equal_weight"] | None = None
    model: str | None = None
    deposit_quote: Positive | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.target is None) == (self.model is None):
            raise ValueError('give either target ("cash" or "equal_weight") or model (an id)')
        return self


class CostSettings(_Section):
    """What a modelled fill costs."""

    taker_fee_rate: Annotated[float, Field(ge=0, lt=0.1)] | None = None
    half_spread_bps: Annotated[float, Field(ge=0, lt=1_000)] = 1.0
    impact_coefficient: Annotated[float, Field(ge=0, lt=100)] = 0.1


class StorageSettings(_Section):
    """Where market data and the ledger live; defaults lie in the state directory."""

    warehouse_url: str | None = None
    ledger_url: str | None = None

    @field_validator("warehouse_url")
    @classmethod
    def _is_a_store(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                parse_store_url(url)
            except WarehouseError as error:
                raise ValueError(str(error)) from None
        return url


class SignalColumnSettings(_Section):
    """One signal that the observation holds besides the features."""

    source: str = Field(min_length=1)
    name: str = Field(default="value", min_length=1)
    version: str = Field(default="1", min_length=1)
    max_age_hours: Positive = 48.0

    @property
    def column(self) -> SignalColumn:
        """The column as the observation knows it."""
        return SignalColumn(
            source=self.source,
            name=self.name,
            version=self.version,
            max_age_seconds=max(1, round(self.max_age_hours * 3_600)),
        )


class TrainingSettings(_Section):
    """When and how a candidate is trained and judged."""

    enabled: bool = True
    schedule: str = "0 0 * * sun"
    misfire_grace_seconds: Positive = 3_600.0
    first_preset: Literal["bootstrap", "default", "textbook"] = "bootstrap"
    preset: Literal["bootstrap", "default", "textbook"] = "bootstrap"
    windows: int = Field(default=4, ge=4)
    seeds: int = Field(default=2, ge=1)
    features: tuple[str, ...] = DEFAULT_FEATURES
    workers: int = Field(default=2, ge=1)
    time_limit_seconds: Positive = 4 * 3_600.0
    memory_limit_mb: int = Field(default=3_072, ge=512)
    signals: tuple[SignalColumnSettings, ...] = ()

    @property
    def signal_columns(self) -> tuple[SignalColumn, ...]:
        """The signals that a policy trained now will read."""
        return tuple(each.column for each in self.signals)

    @field_validator("features")
    @classmethod
    def _features_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return selected(value)

    @field_validator("schedule")
    @classmethod
    def _schedule_is_a_crontab(cls, value: str) -> str:
        if not check_crontab(value):
            raise ValueError("the schedule never fires")
        return value


class SignalsSettings(_Section):
    """The producers that the daemon runs: none unless named."""

    producers: tuple[str, ...] = ()
    time_limit_seconds: Positive = 900.0
    memory_limit_mb: int = Field(default=2_048, ge=256)
    history_days: int = Field(default=0, ge=0)
    options: dict[str, dict[str, str | int | float | bool]] = Field(default_factory=dict)

    @field_validator("producers")
    @classmethod
    def _producers_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a producer is named twice")
        return value


class ProtectionSettings(_Section):
    """Limits that override the policy."""

    drawdown_limit: Fraction = 0.5
    max_model_age_days: Annotated[float, Field(ge=0)] = 0.0


class MonitorSettings(_Section):
    """The page and the HTTP interface."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=8710, ge=0, le=65_535)


class LogSettings(_Section):
    """The event log on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = False


class Settings(_Section):
    """Everything that a daemon or a command needs to know, frozen.

    ``state_dir`` is an absolute path once loaded.
    """

    state_dir: Path = Path("var")
    exchange: ExchangeSettings = ExchangeSettings()
    sandbox: SandboxSettings = SandboxSettings()
    account: AccountSettings = AccountSettings()
    shadows: tuple[ShadowSettings, ...] = ()
    costs: CostSettings = CostSettings()
    storage: StorageSettings = StorageSettings()
    training: TrainingSettings = TrainingSettings()
    signals: SignalsSettings = SignalsSettings()
    protection: ProtectionSettings = ProtectionSettings()
    monitor: MonitorSettings = MonitorSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _one_market(self) -> Self:
        if self.sandbox.enabled and self.exchange.base_url is not None:
            raise ValueError(
                "sandbox.enabled starts a venue of its own; remove exchange.base_url, or set "
                "sandbox.enabled = false"
            )
        return self

    @model_validator(mode="after")
    def _accounts_are_distinct(self) -> Self:
        names = [self.account.id, *(one.id for one in self.shadows)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"shadows: two accounts are named {', '.join(repeated)}")
        return self

    @property
    def warehouse_url(self) -> str:
        """ClickHouse engine: embedded chDB in the state directory unless configured."""
        return self.storage.warehouse_url or f"chdb://{self.state_dir / 'warehouse'}"

    @property
    def ledger_url(self) -> str:
        """SQL database: SQLite in the state directory unless configured."""
        return self.storage.ledger_url or f"sqlite:///{self.state_dir / 'ledger.sqlite'}"

    @property
    def market_identity(self) -> str:
        """Names the market an account trades, so that two are never mixed in one account."""
        venue = self.exchange.name.value
        if not self.sandbox.enabled:
            return (
                venue if self.exchange.base_url is None else f"{venue} at {self.exchange.base_url}"
            )
        if self.sandbox.data is not None:
            return f"sandbox {venue} recorded"
        return f"sandbox {venue} seed {self.sandbox.synthetic_seed} edge {self.sandbox.edge:g}"


def load_settings(
    path: Path | None, *, embedded: bool = False, overrides: dict[str, dict[str, Any]] | None = None
) -> Settings:
    """Read and check ``path``, or take the embedded defaults when it is ``None``.

    Args:
        path: a TOML file, or ``None``.
        embedded: whether the defaults start a sandbox venue of their own (only without a file).
        overrides: section → key → value given on the command line; they win over the file.

    Raises:
        SettingsError: the file is missing, not TOML, or a key is unknown or has a bad value.
    """
    raw = _read_toml(path) if path is not None else {}
    if path is None and embedded:
        raw = {"sandbox": {"enabled": True}}
    for section, values in (overrides or {}).items():
        if section == "":
            raw.update(values)
        else:
            raw.setdefault(section, {}).update(values)
    source = str(path) if path is not None else "settings"
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{source}: {_first_problem(error)}") from None
    return settings.model_copy(update={"state_dir": _state_dir(settings, path, raw)})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: no such file; copy ballast.example.toml there, or leave out --config for the "
            "embedded defaults"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def _state_dir(settings: Settings, path: Path | None, raw: dict[str, Any]) -> Path:
    """One folder per market under the default, so that a second market never joins an account."""
    if "state_dir" in raw:
        return settings.state_dir.expanduser().absolute()
    systemd = os.environ.get("STATE_DIRECTORY")
    if systemd:
        return Path(systemd.split(":")[0]).absolute()
    if path is not None:
        return settings.state_dir.absolute()
    return (settings.state_dir / settings.market_identity.replace(" ", "-")).absolute()


def _first_problem(error: ValidationError) -> str:
    """One line for the first problem: the key, the value and what was expected."""
    problem = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(location)}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message + more
    return f"{key} = {problem['input']!r}: {message[:1].lower()}{message[1:]}{more}"


def _suggestion(location: list[str]) -> str:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    near = difflib.get_close_matches(location[-1], model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {known}"
