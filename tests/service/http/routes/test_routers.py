"""The routers of the application: one of each module of service/http/routes/."""

from __future__ import annotations

import importlib
import pkgutil

from service.http import routes


def test_every_module_of_routes_is_listed() -> None:
    names = [module.name for module in pkgutil.iter_modules(routes.__path__)]
    routers = [importlib.import_module(f"{routes.__name__}.{name}").router for name in names]
    assert len(routers) == len(routes.ROUTERS)
    assert all(any(router is listed for listed in routes.ROUTERS) for router in routers)
