"""BGP with routers that are none of ours: each check with each of them, with each version of gobgpd."""
