include { options ; threads ; words } from '../shell'

// Fragments of the candidate cells, counted on the run's one set of peaks
process COUNT_PEAKS {
    tag "${meta.sample}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(meta), path(fragments, stageAs: 'fragments/*'), path(candidates), path(peaks, stageAs: 'peaks/*')
    val settings // [ genome, chrom_style, count_strategy ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'

    output:
    tuple val(meta), path("*.counts.h5ad"), emit: counts // candidates x peaks, raw counts
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-count-peaks --resources ${meta.sample}.count_peaks.resources.json ${words(fragments)} \\
        ${options(peaks: peaks, barcodes: candidates, chrom_sizes: chrom_sizes)} \\
        ${options(settings)} --output=${meta.sample}.counts.h5ad
    """

    stub:
    """
    touch ${meta.sample}.counts.h5ad
    echo '{}' > ${meta.sample}.count_peaks.resources.json
    """
}
