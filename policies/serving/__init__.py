"""Policies over a websocket: `server.py` answers observations with actions, `client.py` is the policy at the other end."""
