"""Who calls: nobody asks. Routes name the scopes that they would require, for the day that somebody does."""
