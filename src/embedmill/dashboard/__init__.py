"""The dashboard: server-rendered pages over the same acts as the REST API, kept live by server-sent events. Each module
is a page or a part of all pages; none may hold a rule of its own about queue, money or documents."""
