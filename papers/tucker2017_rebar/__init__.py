"""Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein (2017), "REBAR", NIPS."""
