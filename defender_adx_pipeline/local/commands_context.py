"""What every management command works on. Not here: any command."""

from dataclasses import dataclass

from defender_adx_pipeline.local.adx_store import AdxStore
from defender_adx_pipeline.local.adx_views import Views
from defender_adx_pipeline.local.engine import QueryEngine
from defender_adx_pipeline.local.frames import entity_not_found


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on, and who sent it."""

    store: AdxStore
    engine: QueryEngine
    principal: str

    @property
    def views(self) -> Views:
        """The stored functions and views as queries see them."""
        return self.engine.views

    def need_database(self, name: str) -> None:
        """Check the name of a database; names of databases are not case-sensitive.

        Raises:
            KustoFault: another database than this one.
        """
        if name.casefold() != self.store.database.casefold():
            raise entity_not_found("Database", name, self.store.database)
