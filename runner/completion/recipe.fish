# Completion of `recipe` for fish, written by `recipe completion fish`. It starts no program.

@TABLE@
function __recipe_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l command ''
    set -l option ''
    set -l used
    set -l position 0
    for word in $words[2..-1]
        if test -n "$option"
            set option ''
        else if string match -q -- '-*' $word
            set -a used (string replace -r '=.*' '' -- $word)
            if not string match -q -- '*=*' $word; and __recipe_takes "$command $word" >/dev/null
                set option $word
            end
        else if test -z "$command"; and string match -qr '\.ya?ml$' -- $word
            set command run # `recipe x.yaml` is `recipe run x.yaml`
            set position 1
        else if test -z "$command"
            set command $word
        else
            set position (math $position + 1)
        end
    end
    set -l before ''
    if test -z "$option"; and string match -qr '^--[^=]+=' -- $current
        set option (string replace -r '=.*' '' -- $current)
        set before "$option="
        set current (string replace -r '^[^=]*=' '' -- $current)
    end
    if test -n "$option"
        __recipe_offer "$before" "$current" (__recipe_takes "$command $option")
    else if string match -q -- '-*' $current
        # What begins so, and no other: fish would also take what is alike in a description.
        for item in (string match -- "$current*" (__recipe_options "$command"))
            set -l name (string split -m 1 \t -- $item)[1]
            contains -- $name $used; or string replace -r '^([^\t]*)\+' '$1' -- $item
        end
    else if test -z "$command"
        set -l begin '^'(string escape --style=regex -- $current)
        if __recipe_commands '' | string match -qr -- $begin
            __recipe_commands ''
        else
            __recipe_offer '' "$current" recipes locks
        end
    else if set -l answer (__recipe_takes "$command $position"; or __recipe_takes "$command +")
        __recipe_offer '' "$current" $answer
    end
end

function __recipe_offer # BEFORE CURRENT KIND... words WORD...: either may be missing
    set -l before $argv[1]
    set -l current $argv[2]
    set -l kinds $argv[3..-1]
    if set -l first (contains -i -- words $kinds)
        set -l words $kinds[$first..-1]
        for word in (string match -- "$current*" $words[2..-1])
            printf '%s\n' "$before$word"
        end
        test $first = 1; and return
        set kinds $kinds[1..(math $first - 1)]
    else if test "$kinds[1]" = nothing
        return
    end
    if contains runs $kinds
        set -l runs
        for folder in runs/*/
            string match -q -- "$current*" $folder; and test $folder != "$current"
            and set -a runs $folder
        end
        printf "$before%s\n" $runs
        test -n "$runs" -a "$kinds" = runs; and return
    end
    if test -e (string replace -r '[^/]*$' '' -- $current)run.json
        return # inside of a run
    end
    for path in (__recipe_paths "$current")
        __recipe_wanted $path $kinds; and printf '%s\n' "$before$path"
    end
end

function __recipe_wanted # PATH KIND...: folders lead to everything
    if string match -q -- '*/' $argv[1]; or contains files $argv[2..-1]
        return 0
    else if string match -qr -- '\.lock\.ya?ml$' $argv[1]
        contains locks $argv[2..-1]
    else if string match -qr -- '\.ya?ml$' $argv[1]
        contains recipes $argv[2..-1]
    else if string match -q -- '*.tar' $argv[1]
        contains bundles $argv[2..-1]
    else
        return 1
    end
end

function __recipe_paths # CURRENT: what begins with it, folders with a slash behind
    set -l real (string replace -r '^~/' "$HOME/" -- $argv[1])
    for path in $real*
        test -d $path; and set path $path/
        if string match -q -- '~/*' $argv[1]
            set path (string replace -- "$HOME/" '~/' $path)
        end
        printf '%s\n' $path
    end
end

complete -c recipe -e
complete -c recipe -k -f -a '(__recipe_complete)'
